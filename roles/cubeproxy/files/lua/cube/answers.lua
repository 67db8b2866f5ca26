-- What the proxy itself says. SDKs look for parts of these texts: "was not found" and "port is not open".

local cjson = require "cjson.safe"

local _M = {}

local PAGE = [[<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title>
<style>body{font:16px system-ui,sans-serif;margin:15vh auto;max-width:34rem;padding:0 1rem;color:#1c1e21}
h1{font-size:1.4rem}code{background:#f1f2f4;padding:.1em .3em;border-radius:.2em}</style></head>
<body><h1>%s</h1><p>Sandbox <code>%s</code>%s</p></body></html>
]]

local function wants_page()
    local headers = ngx.req.get_headers()
    local accept, agent = headers["accept"], headers["user-agent"]
    -- Repeated headers arrive as tables; no browser repeats these.
    return type(accept) == "string" and accept:find("text/html", 1, true)
        and type(agent) == "string" and agent:find("Mozilla/", 1, true)
end

local function say(status, id, message, port)
    ngx.status = status
    ngx.header["Cache-Control"] = "no-store"
    ngx.header["Access-Control-Allow-Origin"] = "*"
    if wants_page() then
        ngx.header["Content-Type"] = "text/html; charset=utf-8"
        ngx.print(PAGE:format(message, message, id, port and (", port <code>" .. port .. "</code>") or ""))
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

function _M.unknown(id)
    return say(503, id, "The sandbox cannot be looked up right now; try again")
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
