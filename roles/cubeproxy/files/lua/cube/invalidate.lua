-- One worker listens for routes that changed and drops them from the cache that all workers share.

local routes = require "cube.routes"
local store = require "cube.store"

local _M = {}

local RETRY_SECONDS = 0.5

local last_problem

local function connected()
    last_problem = nil
    routes.forget_all()
end

local function listen(premature)
    if premature then
        return
    end
    local problem = store.listen(connected, routes.forget)
    if problem then
        -- One line a change, not two a second.
        if problem ~= last_problem then
            ngx.log(ngx.WARN, "not hearing of route changes: ", problem)
            last_problem = problem
        end
        -- Without messages a cached route may be stale: ask for each until they are heard again.
        routes.forget_all()
    end
    if not ngx.worker.exiting() then
        ngx.timer.at(RETRY_SECONDS, listen)
    end
end

function _M.start()
    if ngx.worker.id() == 0 then
        ngx.timer.at(0, listen)
    end
end

return _M
