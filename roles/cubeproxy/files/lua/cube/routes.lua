-- Where a sandbox is: nginx's shared memory, then Redis, then CubeMaster, which is asked once a miss.

local cjson = require "cjson.safe"
local master = require "cube.master"
local store = require "cube.store"

local _M = {}

local cache = ngx.shared.routes

-- Entries are dropped by a message when a sandbox ends; this is for messages that were lost.
local CACHE_SECONDS = 30
-- Counts the messages. No sandbox has this name.
local CHANGES = "#changes"

local function decoded(text)
    local route = text and cjson.decode(text)
    return type(route) == "table" and route or nil
end

function _M.is_running(route)
    return route.state == "running" and type(route.address) == "string"
end

local function running(text)
    local route = decoded(text)
    return route and _M.is_running(route) and route or nil
end

-- What was read before a message must not outlive it here: the address may have another owner by then.
-- A message between the two looks leaves its own deletion to come after this entry.
local function keep(id, text, changes)
    cache:set(id, text, CACHE_SECONDS)
    if (cache:get(CHANGES) or 0) ~= changes then
        cache:delete(id)
    end
end

-- Returns the route, or nil where the sandbox does not exist, or nil and an error where nobody could be asked.
-- `fresh` passes by the cache: what a failed request does to learn whether its sandbox is gone.
-- Only routes that run are kept: others change by what the next request does.
function _M.lookup(id, fresh)
    if not fresh then
        local route = running(cache:get(id))
        if route then
            return route
        end
    end
    local changes = cache:get(CHANGES) or 0
    local text, redis_error = store.get(id)
    local route = running(text)
    if route then
        keep(id, text, changes)
        return route
    end
    local problem
    text, problem = master.route(id)
    route = decoded(text)
    if route and _M.is_running(route) then
        keep(id, text, changes)
        return route
    end
    cache:delete(id)
    if problem then
        ngx.log(ngx.ERR, "no route for ", id, ": CubeMaster: ", problem, "; Redis: ", redis_error or "no entry")
    end
    return route, problem
end

function _M.forget(id)
    cache:incr(CHANGES, 1, 0)
    cache:delete(id)
end

function _M.forget_all()
    local changes = cache:get(CHANGES) or 0
    cache:flush_all()
    cache:set(CHANGES, changes + 1)
end

return _M
