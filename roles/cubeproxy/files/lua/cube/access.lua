-- Access phase of sandbox traffic: says where a request goes, or answers.

local answers = require "cube.answers"
local dial = require "cube.dial"
local routes = require "cube.routes"
local settings = require "cube.settings"
local target = require "cube.target"
local tokens = require "cube.tokens"
local wake = require "cube.wake"

local _M = {}

local AGENT_PORT = 49983

-- Of this worker: requests that wait to dial again.
local MAX_DIALLING = 1024
local dialling = 0

-- Only Cubelet may call these. The agent takes its identity from whoever reaches them from outside the guest,
-- and seen from the guest that includes this proxy. `/logs` is what Cubelet collects sandbox logs from.
local INTERNAL = {
    ["/init"] = true, ["/freeze"] = true, ["/unfreeze"] = true, ["/collapse"] = true,
    ["/fsfreeze"] = true, ["/fsthaw"] = true, ["/upgrade"] = true, ["/logs"] = true, ["/flush"] = true, ["/trust"] = true,
    ["/volumes/path"] = true, ["/volumes/dir"] = true, ["/volumes/file"] = true, ["/volumes/release"] = true,
}

-- nginx has decoded and normalised the path here. Frameworks differ in what else they overlook: a slash at the end,
-- parameters after a semicolon, another decoding, case.
local function is_internal(path)
    local plain = ngx.unescape_uri(path):lower():gsub("\\", "/"):gsub(";[^/]*", ""):gsub("//+", "/"):gsub("/+$", "")
    return INTERNAL[plain] ~= nil
end

local function is_private(route)
    return type(route.traffic_token_sha256) == "string"
end

-- The agent has a token of its own.
local function is_admitted(route, port, headers)
    return not is_private(route) or port == AGENT_PORT
        or tokens.matches(headers["e2b-traffic-access-token"], route.traffic_token_sha256)
end

-- Strangers do not wake a private sandbox. Whether the agent's token is right, the agent itself will say.
local function may_wake(route, port, headers)
    return not is_private(route) or port ~= AGENT_PORT or headers["x-access-token"] ~= nil
end

local function mask_of(route, port)
    local mask = route.mask_request_host
    return type(mask) == "string" and mask:gsub("%${PORT}", tostring(port)) or nil
end

-- Services on these ports serve TLS themselves.
local function speaks_tls(route, port)
    for _, one in ipairs(type(route.https_ports) == "table" and route.https_ports or {}) do
        if one == port then
            return true
        end
    end
    return false
end

-- Answers for a sandbox that runs and yet could not be asked.
local function unreachable(route, id, port)
    local fails = speaks_tls(route, port) and dial.fails_at_tls(route.address, port)
    return (fails and answers.not_tls or answers.port_closed)(id, port)
end

-- Returns a route that runs and whether it had to be woken, or nil after it answered.
local function running(id, port, headers, options)
    local route, problem = routes.lookup(id, options.fresh)
    if not route then
        return nil, (problem and answers.unknown or answers.not_found)(id)
    end
    if not options.admitted and not is_admitted(route, port, headers) then
        return nil, answers.private(id)
    end
    if routes.is_running(route) then
        return route, false
    end
    if route.state == "transitioning" then
        return nil, answers.transitioning(id)
    end
    if route.auto_resume ~= true then
        return nil, answers.not_found(id)
    end
    if not options.admitted and not may_wake(route, port, headers) then
        return nil, answers.private(id)
    end
    return wake.wake(id), true
end

-- The first try.
function _M.run()
    local var = ngx.var
    local headers = ngx.req.get_headers(0)
    local host = target.host(headers["host"], var.host)
    if not host then
        return answers.bad_request("Invalid host")
    end
    local id, port = target.parse(host, headers["e2b-sandbox-id"], headers["e2b-sandbox-port"], settings.domain)
    if not id then
        return answers.bad_request(port)
    end
    if port == AGENT_PORT and is_internal(var.uri) then
        return answers.hidden()
    end
    var.cube_id, var.cube_port = id, tostring(port)
    local route = running(id, port, headers, {})
    if not route then
        return
    end
    var.cube_host = mask_of(route, port) or headers["host"]
    -- An upgraded connection is a tunnel in which nobody hides the agent's internal routes; it speaks no such protocol.
    var.cube_upgrade = port ~= AGENT_PORT and var.http_upgrade or ""
    return dial.plan(route.address, port, speaks_tls(route, port), 0)
end

-- A later try, in the server that only this nginx reaches. The first one has checked who asks, and for what.
function _M.again(step)
    local var = ngx.var
    local headers = ngx.req.get_headers(0)
    local id, port = target.parse(
        headers["x-forwarded-host"], headers["e2b-sandbox-id"], headers["e2b-sandbox-port"], settings.domain
    )
    if not id then
        return answers.bad_request(port)
    end
    var.cube_id, var.cube_port = id, tostring(port)
    local route, woken = running(id, port, headers, { fresh = true, admitted = true })
    if not route then
        return
    end
    local delay_ms = settings.dial_delays_ms[step]
    if not woken then
        if not delay_ms or dialling >= MAX_DIALLING then
            return unreachable(route, id, port)
        end
        dialling = dialling + 1
        ngx.sleep(delay_ms / 1000)
        dialling = dialling - 1
    end
    return dial.plan(route.address, port, speaks_tls(route, port), delay_ms and step or 1)
end

-- After nginx could not get an answer from the guest: gone, or nobody listening?
function _M.failed()
    local id, port = ngx.var.cube_id, tonumber(ngx.var.cube_port)
    local route, problem = routes.lookup(id, true)
    if not route then
        return (problem and answers.unknown or answers.not_found)(id)
    end
    if routes.is_running(route) then
        return unreachable(route, id, port)
    end
    if route.state == "transitioning" or route.auto_resume == true then
        return answers.transitioning(id)
    end
    return answers.not_found(id)
end

return _M
