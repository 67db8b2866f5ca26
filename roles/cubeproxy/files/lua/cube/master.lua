-- Asks CubeMaster for a route, over its Unix socket.
-- A socket of our own, since nginx's subrequests do not work within HTTP/2 requests.

local settings = require "cube.settings"

local _M = {}

local TIMEOUT_MS = 2000

-- Returns the JSON text of the route, or nil where the sandbox does not exist, or nil and an error.
function _M.route(id)
    local socket = ngx.socket.tcp()
    socket:settimeout(TIMEOUT_MS)
    local ok, problem = socket:connect("unix:" .. settings.master_socket)
    if not ok then
        return nil, problem
    end
    -- HTTP/1.0: the answer is not chunked and ends with the connection.
    local sent, broken = socket:send("GET /v1/routes/" .. id .. " HTTP/1.0\r\nHost: cube-master\r\n\r\n")
    if not sent then
        socket:close()
        return nil, broken
    end
    local answer, cut = socket:receive("*a")
    socket:close()
    if not answer then
        return nil, cut
    end
    local status, body = answer:match("^HTTP/1%.%d (%d%d%d).-\r\n\r\n(.*)$")
    if status == "200" then
        return body
    end
    if status == "404" then
        return nil
    end
    return nil, "answered with status " .. (status or "unreadable")
end

return _M
