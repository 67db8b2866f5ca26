-- Which sandbox and port a request is for: by host name, or by header on hosts that name no sandbox.
-- Pure: no nginx API but regular expressions, so that the grammar can be read in one place.

local re_match = ngx.re.match

local _M = {}

-- The leftmost label is `<port>-<sandboxID>`. SDKs before 2.0 append `-<clientID>`, which is ignored.
local HOST = [[^(\d{1,5})-([a-z0-9]{1,64})(?:-[a-z0-9-]*)?\.]]
local HEADER_ID = [[^([a-z0-9]{1,64})(?:-[a-z0-9]+)?$]]
local IPV4 = [[^\d{1,3}(?:\.\d{1,3}){3}$]]

local function port_of(text)
    local port = re_match(text, [[^\d{1,5}$]], "jo") and tonumber(text)
    if not port or port < 1 or port > 65535 then
        return nil, "Invalid sandbox port"
    end
    return port
end

local function without_port(host)
    return (host:gsub(":%d+$", "")):lower()
end

local function routed_by_header(host, domain)
    return host == "localhost" or host == "sandbox." .. domain or host:sub(1, 1) == "["
        or re_match(host, IPV4, "jo") ~= nil
end

-- Returns the one host that a request names, or nil where it names none or several.
-- `chosen` is what nginx picked the server by: a host in the request line ("absolute form") beats the header there.
function _M.host(header, chosen)
    if type(header) ~= "string" or without_port(header) ~= chosen then
        return nil
    end
    return header
end

-- Returns sandbox id and port, or nil and the text of a 400. Headers that were sent twice are tables, and no ids.
function _M.parse(host, header_id, header_port, domain)
    if type(host) ~= "string" then
        return nil, "Invalid host"
    end
    host = without_port(host)
    if routed_by_header(host, domain) then
        if not header_id or not header_port then
            return nil, "missing header: E2b-Sandbox-Id and E2b-Sandbox-Port name the sandbox on this host"
        end
        if type(header_id) ~= "string" then
            return nil, "Invalid sandbox ID"
        end
        if type(header_port) ~= "string" then
            return nil, "Invalid sandbox port"
        end
        local id = re_match(header_id, HEADER_ID, "jo")
        if not id then
            return nil, "Invalid sandbox ID"
        end
        local port, problem = port_of(header_port)
        return port and id[1], port or problem
    end
    local suffix = "." .. domain
    local labels = host:sub(1, #host - #suffix)
    if host:sub(-#suffix) ~= suffix or labels:find(".", 1, true) then
        return nil, "Invalid host"
    end
    local match = re_match(labels .. ".", HOST, "jo")
    if not match then
        return nil, "Invalid host"
    end
    local port, problem = port_of(match[1])
    return port and match[2], port or problem
end

return _M
