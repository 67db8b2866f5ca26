-- Routes in Redis: reads, and the messages that say which route changed.

local redis = require "nginx.redis"
local settings = require "cube.settings"

local _M = {}

local KEY_PREFIX = "cube:route:"
local CHANNEL = "cube:routes"
local TIMEOUT_MS = 250
local IDLE_MS = 60000
local POOL_SIZE = 64
-- How often a subscriber that heard nothing looks up: a worker that is leaving must not wait longer.
local LISTEN_MS = 1000

local function connect(timeout_ms)
    local connection = redis:new()
    connection:set_timeout(timeout_ms)
    local ok, problem = connection:connect("unix:" .. settings.redis_socket)
    if not ok then
        return nil, problem
    end
    if connection:get_reused_times() == 0 and settings.redis_password ~= "" then
        local authenticated, refused = connection:auth(settings.redis_username, settings.redis_password)
        if not authenticated then
            return nil, refused
        end
    end
    return connection
end

-- Returns the JSON text of a route, or nil where there is none, or nil and an error.
function _M.get(id)
    local connection, problem = connect(TIMEOUT_MS)
    if not connection then
        return nil, problem
    end
    local text, failed = connection:get(KEY_PREFIX .. id)
    if not text then
        connection:close()
        return nil, failed
    end
    connection:set_keepalive(IDLE_MS, POOL_SIZE)
    if text == ngx.null then
        return nil
    end
    return text
end

-- Calls `changed(id)` for each route that changed until the connection breaks or the worker leaves.
-- `connected()` comes first: what changed before it is unknown.
function _M.listen(connected, changed)
    local connection, problem = connect(TIMEOUT_MS)
    if not connection then
        return problem
    end
    local ok, refused = connection:subscribe(CHANNEL)
    if not ok then
        connection:close()
        return refused
    end
    connection:set_timeout(LISTEN_MS)
    connected()
    while not ngx.worker.exiting() do
        local message, failed = connection:read_reply()
        if message then
            if message[1] == "message" then
                changed(message[3])
            end
        elseif failed ~= "timeout" then
            connection:close()
            return failed
        end
    end
    connection:close()
end

return _M
