-- What the proxy itself says. SDKs look for parts of these texts: "was not found" and "port is not open".

local cjson = require "cjson.safe"

local _M = {}

local PAGE = [[<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title>
<style>body{font:16px system-ui,sans-serif;margin:15vh auto;max-width:34rem;padding:0 1rem;color:#1c1e21}
h1{font-size:1.4rem}code{background:#f1f2f4;padding:.1em .3em;border-radius:.2em}</style></head>
<body><h1>%s</h1><p>Sandbox <code>%s</code>%s</p></body></html>
]]

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local function escape(text)
    return (tostring(text):gsub("[&<>\"']", ESCAPES))
end

-- Repeated headers arrive as tables; no browser repeats these.
local function holds(header, part)
    return type(header) == "string" and header:find(part, 1, true) ~= nil
end

-- A page is for somebody who looks at it: a browser that navigates, not a script in one.
local function wants_page()
    local headers = ngx.req.get_headers(0)
    local mode = headers["sec-fetch-mode"]
    return holds(headers["accept"], "text/html") and holds(headers["user-agent"], "Mozilla/")
        and (mode == nil or mode == "navigate") and headers["x-requested-with"] == nil
end

local function say(status, id, message, port, retry_after_s)
    ngx.status = status
    ngx.header["Cache-Control"] = "no-store"
    ngx.header["Access-Control-Allow-Origin"] = "*"
    ngx.header["Retry-After"] = retry_after_s
    if wants_page() then
        ngx.header["Content-Type"] = "text/html; charset=utf-8"
        local at_port = port and (", port <code>" .. escape(port) .. "</code>") or ""
        ngx.print(PAGE:format(escape(message), escape(message), escape(id), at_port))
    else
        ngx.header["Content-Type"] = "application/json"
        ngx.print(cjson.encode({ sandboxId = id, message = message, code = status, port = port }))
    end
    return ngx.exit(status)
end

function _M.not_found(id)
    return say(502, id, "The sandbox was not found")
end

function _M.port_closed(id, port)
    return say(502, id, "The sandbox is running but port is not open", port)
end

function _M.not_tls(id, port)
    return say(502, id, "The sandbox is running but the service on this port does not speak TLS: "
        .. "its network.httpsPorts name the port", port)
end

function _M.unknown(id)
    return say(503, id, "The sandbox cannot be looked up right now; try again")
end

function _M.private(id)
    return say(403, id, "The sandbox is private: send its traffic access token as e2b-traffic-access-token")
end

function _M.wake_refused(id)
    return say(403, id, "The sandbox is paused and traffic may not resume it")
end

function _M.transitioning(id)
    return say(409, id, "The sandbox is being paused or resumed; try again", nil, 1)
end

function _M.no_quota(id)
    return say(429, id, "The sandbox cannot be resumed: its team runs as many sandboxes as it may", nil, 5)
end

function _M.too_many(id)
    return say(429, id, "Too many requests wait for sandboxes to resume; try again", nil, 1)
end

function _M.bad_request(message)
    ngx.status = 400
    ngx.header["Content-Type"] = "text/plain"
    ngx.print(message, "\n")
    return ngx.exit(400)
end

function _M.hidden()
    ngx.status = 404
    ngx.header["Content-Type"] = "application/json"
    ngx.print([[{"code":404,"message":"not found"}]])
    return ngx.exit(404)
end

return _M
