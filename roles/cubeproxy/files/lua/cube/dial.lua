-- Connects to a guest. A service that is just starting refuses for a moment, so a refused connection is tried again
-- after a delay. The request's body may not have been read by then, and nginx cannot wait between two tries of one
-- request; therefore the second try goes to this nginx itself, over a Unix socket, where the request waits before it
-- is tried again. Nothing was sent on the first try, so nothing is lost or sent twice.

local balancer = require "ngx.balancer"
local settings = require "cube.settings"

local _M = {}

-- nginx's code for "no peer": a 502, and no further try.
local BUSY = -3
local TIMED_OUT = 504

-- `step` is how many delays this request has had.
function _M.plan(address, port, tls, step)
    ngx.var.cube_scheme = tls and "https" or "http"
    ngx.ctx.cube_dial = {
        address = address,
        port = port,
        tls = tls,
        refused = settings.dial_delays_ms[step + 1] and tostring(step + 1),
        -- One that did not answer within the time limit is not tried again, but it may have been paused meanwhile.
        timed_out = step == 0 and "late" or nil,
    }
end

-- A try that speaks TLS does so with this nginx as well.
local function peer(step, tls)
    return "unix:" .. settings.runtime .. "/dial-" .. step .. (tls and "-tls" or "") .. ".sock"
end

-- What a TLS handshake sends is no part of the request, and nginx does not count it.
local function was_sent()
    local sent = ngx.var.upstream_bytes_sent
    return sent and tonumber(sent:match("^%d+")) ~= 0
end

-- Says whether somebody takes connections there and yet no request came to be sent: they failed at TLS.
function _M.fails_at_tls(address, port)
    if was_sent() then
        return false
    end
    local socket = ngx.socket.tcp()
    socket:settimeout(settings.connect_timeout_s * 1000)
    local listens = socket:connect(address, port)
    socket:close()
    return listens ~= nil
end

-- Balancer phase of both tries.
function _M.choose()
    local dial = ngx.ctx.cube_dial
    if not dial.tried then
        dial.tried = true
        if dial.refused or dial.timed_out then
            balancer.set_more_tries(1)
        end
        local ok, problem = balancer.set_current_peer(dial.address, dial.port)
        if not ok then
            ngx.log(ngx.ERR, "cannot dial ", dial.address, ": ", problem)
            return ngx.exit(ngx.ERROR)
        end
        return
    end
    local _, status = balancer.get_last_failure()
    local step = status == TIMED_OUT and dial.timed_out or status ~= TIMED_OUT and dial.refused
    -- A guest that took the request and then broke off may have acted on it.
    if not step or was_sent() then
        return ngx.exit(BUSY)
    end
    return balancer.set_current_peer(peer(step, dial.tls), 0)
end

return _M
