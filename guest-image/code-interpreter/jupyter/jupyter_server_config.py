"""Configuration of the Jupyter server inside the sandbox. Only the code interpreter talks to it, over loopback."""

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

c = get_config()  # type: ignore[name-defined]  # noqa: F821

c.ServerApp.ip = "127.0.0.1"
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True  # whichever user the sandbox runs as, the sandbox is the boundary
# Code in the sandbox may reach the kernels anyway, and nothing else reaches loopback.
c.IdentityProvider.token = ""
c.ServerApp.disable_check_xsrf = True
# A kernel's working directory is given relative to this, and may be anywhere.
c.ServerApp.root_dir = "/"
# No web pages are served: leave out what only they need.
c.ServerApp.terminals_enabled = False
c.ServerApp.jpserver_extensions = {"jupyter_server_terminals": False}
# Both ends are on this machine: the end of one shows without asking.
c.ServerApp.tornado_settings = {"ws_ping_interval": 0}
# A cell may print as fast as it likes.
c.PromptConnection.limit_rate = False
# A context stays usable however often its cells end the kernel.
c.KernelRestarter.restart_limit = 1_000_000
c.KernelSpecManager.ensure_native_kernel = False


class PromptConnection(ZMQChannelsWebsocketConnection):  # type: ignore[misc]
    """Sends each message of a kernel at once. Tornado leaves Nagle's algorithm on, which makes a cell 40 ms slower."""

    def connect(self):  # type: ignore[no-untyped-def]
        self.websocket_handler.set_nodelay(True)
        return super().connect()


c.ServerApp.kernel_websocket_connection_class = PromptConnection
