-- Is a token the one whose SHA-256 the route carries?

local ffi = require "ffi"

local _M = {}

-- libcrypto is part of nginx, which serves TLS with it.
ffi.cdef [[
unsigned char *SHA256(const unsigned char *data, size_t length, unsigned char *digest);
int CRYPTO_memcmp(const void *one, const void *other, size_t length);
]]

local DIGEST_BYTES = 32
local found = ffi.new("unsigned char[?]", DIGEST_BYTES)

local function from_hex(text)
    return (text:gsub("%x%x", function(pair)
        return string.char(tonumber(pair, 16))
    end))
end

-- A digest that is none matches nothing.
function _M.matches(token, sha256_hex)
    if type(token) ~= "string" or type(sha256_hex) ~= "string" then
        return false
    end
    local wanted = from_hex(sha256_hex)
    if #wanted ~= DIGEST_BYTES then
        return false
    end
    ffi.C.SHA256(token, #token, found)
    return ffi.C.CRYPTO_memcmp(found, wanted, DIGEST_BYTES) == 0
end

return _M
