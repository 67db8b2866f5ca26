-- Asks CubeMaster over its Unix socket.
-- A socket of our own, since nginx's subrequests do not work within HTTP/2 requests.

local settings = require "cube.settings"

local _M = {}

local TIMEOUT_MS = 2000
-- CubeMaster's own limit of a resume is shorter: it says why one failed.
local WAKE_TIMEOUT_MS = 30000

-- Returns status and body, or nil and an error.
local function ask(method, path, answer_ms)
    local socket = ngx.socket.tcp()
    socket:settimeouts(TIMEOUT_MS, TIMEOUT_MS, answer_ms)
    local ok, problem = socket:connect("unix:" .. settings.master_socket)
    if not ok then
        return nil, problem
    end
    -- HTTP/1.0: the answer is not chunked and ends with the connection.
    local sent, broken = socket:send(
        method .. " " .. path .. " HTTP/1.0\r\nHost: cube-master\r\nContent-Length: 0\r\n\r\n"
    )
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
    if not status then
        return nil, "answered with something unreadable"
    end
    return tonumber(status), body
end

-- Returns the JSON text of the route, or nil where the sandbox does not exist, or nil and an error.
function _M.route(id)
    local status, body = ask("GET", "/v1/routes/" .. id, TIMEOUT_MS)
    if status == 200 then
        return body
    end
    if status == 404 then
        return nil
    end
    return nil, status and "answered with status " .. status or body
end

-- Returns status and body, or nil and an error. Callers that come meanwhile share one resume, in CubeMaster.
function _M.wake(id)
    return ask("POST", "/v1/routes/" .. id .. "/wake", WAKE_TIMEOUT_MS)
end

return _M
