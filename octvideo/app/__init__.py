"""The page of ``octvideo app``: clips, the browser's camera, and octave networks next to their vanilla twins.

Gradio is imported by the modules of this folder alone. It reads the setting below then, and would send usage data.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
