-- Where a sandbox is: nginx's shared memory, then Redis, then CubeMaster, which is asked once a miss.

local cjson = require "cjson.safe"
local master = require "cube.master"
local store = require "cube.store"

local _M = {}

local cache = ngx.shared.routes

-- Entries are dropped by a message when a sandbox ends; this is for messages that were lost.
local CACHE_SECONDS = 30

local function usable(text)
    local route = text and cjson.decode(text)
    if type(route) == "table" and type(route.address) == "string" then
        return route
    end
end

-- Returns the route, or nil where the sandbox does not exist, or nil and an error where nobody could be asked.
-- `fresh` passes by the cache: what a failed request does to learn whether its sandbox is gone.
function _M.lookup(id, fresh)
    if not fresh then
        local route = usable(cache:get(id))
        if route then
            return route
        end
    end
    local text, redis_error = store.get(id)
    local route = usable(text)
    if not route then
        local problem
        text, problem = master.route(id)
        route = usable(text)
        if not route then
            cache:delete(id)
            if problem then
                ngx.log(ngx.ERR, "no route for ", id, ": CubeMaster: ", problem, "; Redis: ", redis_error or "no entry")
            end
            return nil, problem
        end
    end
    cache:set(id, text, CACHE_SECONDS)
    return route
end

function _M.forget(id)
    cache:delete(id)
end

function _M.forget_all()
    cache:flush_all()
end

return _M
