"""Configuration of the Jupyter server inside the sandbox. Only the code interpreter talks to it, over loopback."""

from jupyter_client import localinterfaces
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

c = get_config()  # type: ignore[name-defined]  # noqa: F821

# The guest agent makes services on 127.0.0.1 reachable from outside, whoever started them. Whoever reaches this server,
# or the sockets of a kernel, runs code: they listen on another address of loopback, which is not forwarded.
INSIDE = "127.0.0.2"
# Jupyter takes only addresses that the machine's interfaces name for local ones.
localinterfaces.local_ips().append(INSIDE)

c.ServerApp.ip = INSIDE
c.KernelManager.ip = INSIDE
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True  # whichever user the sandbox runs as, the sandbox is the boundary
# Code in the sandbox may reach the kernels anyway, and nothing else reaches this address.
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
