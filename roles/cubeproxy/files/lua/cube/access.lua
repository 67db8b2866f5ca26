-- Access phase of sandbox traffic: sets `$cube_backend`, or answers.

local answers = require "cube.answers"
local routes = require "cube.routes"
local settings = require "cube.settings"
local target = require "cube.target"

local _M = {}

local AGENT_PORT = 49983

-- Only Cubelet may call these. The agent takes its identity from whoever reaches them from outside the guest,
-- and seen from the guest that includes this proxy.
local INTERNAL = {
    ["/init"] = true, ["/freeze"] = true, ["/unfreeze"] = true, ["/collapse"] = true,
    ["/fsfreeze"] = true, ["/fsthaw"] = true, ["/upgrade"] = true,
    ["/flush"] = true,
}

-- nginx has decoded and normalised the path here; a trailing slash would reach the same route in some frameworks.
local function is_internal(path)
    return INTERNAL[(path:gsub("/+$", ""))] ~= nil
end

function _M.run()
    local var = ngx.var
    local id, port = target.parse(var.http_host, var.http_e2b_sandbox_id, var.http_e2b_sandbox_port, settings.domain)
    if not id then
        return answers.bad_request(port)
    end
    if port == AGENT_PORT and is_internal(var.uri) then
        return answers.hidden()
    end
    local route, problem = routes.lookup(id)
    if not route then
        if problem then
            return answers.unknown(id)
        end
        return answers.not_found(id)
    end
    ngx.ctx.cube_id, ngx.ctx.cube_port = id, port
    var.cube_id, var.cube_port = id, tostring(port)
    var.cube_backend = route.address .. ":" .. port
end

-- After nginx could not get an answer from the guest: gone, or nobody listening?
function _M.failed()
    local id, port = ngx.var.cube_id, tonumber(ngx.var.cube_port)
    local route, problem = routes.lookup(id, true)
    if route then
        return answers.port_closed(id, port)
    end
    if problem then
        return answers.unknown(id)
    end
    return answers.not_found(id)
end

return _M
