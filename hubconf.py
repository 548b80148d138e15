"""Networks for ``torch.hub``: ``torch.hub.load(repository, "x3d_s", pretrained=True)``.

Each name of ``octvideo.list_models()`` takes the arguments of ``octvideo.create_model``: alpha, pretrained and
num_classes.
"""

from functools import partial as _partial

import octvideo as _octvideo

dependencies = ["torch", "torchvision", "pytorchvideo", "fvcore", "yacs", "yaml", "numpy", "tqdm"]

for _name in _octvideo.list_models():
    globals()[_name] = _partial(_octvideo.create_model, _name)
    globals()[_name].__doc__ = _octvideo.create_model.__doc__
