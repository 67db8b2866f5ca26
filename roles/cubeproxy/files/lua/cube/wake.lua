-- Resumes a paused sandbox for a request that waits meanwhile.

local answers = require "cube.answers"
local cjson = require "cjson.safe"
local master = require "cube.master"
local routes = require "cube.routes"

local _M = {}

-- Of this worker: each waiting request holds its client's connection and one to CubeMaster, for up to 30 s.
local MAX_WAITING = 512
local MAX_WAITING_FOR_ONE = 64

local waiting, waiting_for = 0, {}

-- What each status of CubeMaster means to the client.
local REFUSALS = {
    [403] = answers.wake_refused,
    [404] = answers.not_found,
    [409] = answers.transitioning,
    [429] = answers.no_quota,
}

-- Returns a route that runs, or nil after it answered.
function _M.wake(id)
    local siblings = waiting_for[id] or 0
    if waiting >= MAX_WAITING or siblings >= MAX_WAITING_FOR_ONE then
        return nil, answers.too_many(id)
    end
    waiting, waiting_for[id] = waiting + 1, siblings + 1
    local status, body = master.wake(id)
    waiting, siblings = waiting - 1, waiting_for[id] - 1
    waiting_for[id] = siblings > 0 and siblings or nil

    if status == 200 then
        local route = cjson.decode(body)
        if type(route) == "table" and routes.is_running(route) then
            return route
        end
        return nil, answers.transitioning(id)
    end
    local refuse = REFUSALS[status]
    if refuse then
        return nil, refuse(id)
    end
    ngx.log(ngx.ERR, "cannot resume ", id, ": CubeMaster: ", status and "answered with status " .. status or body)
    return nil, answers.unknown(id)
end

return _M
