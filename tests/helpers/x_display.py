"""A virtual X server, what it shows, and real keys for its windows."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from typing import Any

import numpy as np
from Xlib import XK, X
from Xlib.display import Display
from Xlib.error import BadWindow
from Xlib.ext import xtest
from Xlib.protocol.event import ClientMessage

SIZE = (800, 640)  # pixels of the screen


class XDisplay:
    """An Xvfb on a free display, with a small window manager. A context manager.

    Attributes:
        name: for ``DISPLAY``.
    """

    def __init__(self) -> None:
        reading, writing = os.pipe()
        screen = f"{SIZE[0]}x{SIZE[1]}x24"
        # -displayfd: it looks for a free display, and writes its number when it accepts connections.
        command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", screen, "-nolisten", "tcp", "-noreset"]
        self._server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
        os.close(writing)
        with os.fdopen(reading) as answer:
            self.name = f":{answer.readline().strip()}"
        self._display = Display(self.name)
        self._root = self._display.screen().root
        self._manager, self._ended = Display(self.name), threading.Event()
        self._manager.screen().root.change_attributes(event_mask=X.SubstructureRedirectMask)
        self._manager.sync()
        self._managing = threading.Thread(target=self._manage, daemon=True)
        self._managing.start()

    def __enter__(self) -> XDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._managing.join()
        self._manager.close()
        self._display.close()
        self._server.terminate()
        self._server.wait()

    def _manage(self) -> None:
        """Show windows as programs ask for it, but a bit later: Qt may miss what comes before its event loop runs."""
        while not self._ended.is_set():
            select.select([self._manager], [], [], 0.1)
            while self._manager.pending_events():
                event = self._manager.next_event()
                with contextlib.suppress(BadWindow):
                    if event.type == X.MapRequest:
                        time.sleep(0.05)
                        event.window.map()
                    elif event.type == X.ConfigureRequest:
                        event.window.configure(width=event.width, height=event.height)
                    self._manager.sync()

    def screenshot(self) -> np.ndarray:
        """Return what is on the screen: uint8 ``(H, W, 3)`` RGB."""
        data = self._root.get_image(0, 0, *SIZE, X.ZPixmap, 0xFFFFFFFF).data
        return np.frombuffer(data, np.uint8).reshape(SIZE[1], SIZE[0], 4)[:, :, 2::-1].copy()

    def window(self, title: str) -> Any | None:
        """Return the visible window with a title."""
        for window in self._root.query_tree().children:
            with contextlib.suppress(BadWindow):  # it is gone meanwhile
                if window.get_wm_name() == title and window.get_attributes().map_state == X.IsViewable:
                    return window
        return None

    def press(self, title: str, key: str) -> None:
        """Press and release a key, by its X name, in a window."""
        window = self.window(title)
        assert window is not None, f"there is no window {title}"
        window.set_input_focus(X.RevertToParent, X.CurrentTime)
        self._display.sync()
        code = self._display.keysym_to_keycode(XK.string_to_keysym(key))
        for kind in (X.KeyPress, X.KeyRelease):
            xtest.fake_input(self._display, kind, code)
            self._display.sync()
            time.sleep(0.05)

    def close_window(self, title: str) -> None:
        """Ask a window to close, as a window manager does when its cross is clicked."""
        window = self.window(title)
        assert window is not None, f"there is no window {title}"
        protocols, delete = (self._display.intern_atom(name) for name in ("WM_PROTOCOLS", "WM_DELETE_WINDOW"))
        window.send_event(ClientMessage(window=window, client_type=protocols, data=(32, [delete, 0, 0, 0, 0])))
        self._display.sync()
