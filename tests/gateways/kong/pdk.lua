-- Stands for Kong under nginx's Lua module: the functions of its plugin development kit that the plugin calls, its
-- plugin key-auth with hide_credentials, and the library resty.http that Kong brings with it.

local function first(value) return type(value) == "table" and value[1] or value end

kong = {
    request = {
        get_method = function() return ngx.req.get_method() end,
        get_path_with_query = function() return ngx.var.request_uri end,
        get_host = function() return ngx.var.host end,
    },
    client = {
        get_forwarded_ip = function() return ngx.var.remote_addr end,
        get_credential = function() return ngx.ctx.credential end,
        get_consumer = function() return ngx.ctx.consumer end,
    },
    response = {
        set_headers = function(headers) for name, value in pairs(headers) do ngx.header[name] = value end end,
    },
    log = { warn = function(...) ngx.log(ngx.WARN, ...) end },
    ctx = { plugin = setmetatable({}, {
        __index = function(_, name) return (ngx.ctx.plugin or {})[name] end,
        __newindex = function(_, name, value)
            ngx.ctx.plugin = ngx.ctx.plugin or {}
            ngx.ctx.plugin[name] = value
        end,
    }) },
}

function kong.response.exit(status, body, headers)
    kong.response.set_headers(headers or {})
    ngx.status = status
    if type(body) == "table" then
        ngx.header["Content-Type"] = "application/json"
        body = '{"message":"' .. body.message .. '"}'
    end
    ngx.header["Content-Length"] = #(body or "")
    ngx.print(body or "")
    return ngx.exit(status)
end

-- One request of HTTP/1.1 on a connection of its own.
local client = {}
client.__index = client

function client:set_timeouts(...) self.timeouts = { ... } end

function client:request_uri(uri, options)
    local host, port, path = uri:match("^http://([^:/]+):(%d+)(/.*)$")
    local socket = ngx.socket.tcp()
    socket:settimeouts(unpack(self.timeouts))
    local connected, problem = socket:connect(host, tonumber(port))
    if not connected then return nil, problem end
    local lines = { "GET " .. path .. "?" .. ngx.encode_args(options.query) .. " HTTP/1.1", "Host: " .. host,
        "Connection: close" }
    for name, values in pairs(options.headers) do
        for _, value in ipairs(type(values) == "table" and values or { values }) do
            table.insert(lines, name .. ": " .. value)
        end
    end
    socket:send(table.concat(lines, "\r\n") .. "\r\n\r\n")
    local line
    line, problem = socket:receive("*l")
    if not line then return nil, problem end
    local lower = {}
    local headers = setmetatable({}, { __index = function(_, name) return lower[name:lower()] end })
    local answer = { status = tonumber(line:match("^HTTP/1.1 (%d+)")), headers = headers }
    for header in function() return socket:receive("*l") end do
        local name, value = header:match("^([^:]+): (.*)$")
        if not name then break end
        lower[name:lower()] = value
    end
    answer.body = socket:receive(tonumber(lower["content-length"] or 0))
    return answer
end

package.preload["resty.http"] = function() return { new = function() return setmetatable({}, client) end } end
package.preload["kong.db.schema.typedefs"] = function()
    return { protocols_http = { type = "set" }, url = { type = "string" } }
end

-- The configuration of the plugin: the defaults of its schema, and what the declarative file says. A field that the
-- schema does not have is an error.
function configured(values)
    local known, config = {}, {}
    for _, field in ipairs(require("kong.plugins.tidegate.schema").fields[2].config.fields) do
        local name, is = next(field)
        known[name] = true
        config[name] = values[name] == nil and is.default or values[name]
        assert(not is.required or config[name] ~= nil, name .. " is required")
    end
    for name in pairs(values) do assert(known[name], name .. " is not in the schema") end
    return config
end

-- What key-auth does with `hide_credentials: true`.
function key_auth(consumers)
    local key = first(ngx.req.get_headers()["x-api-key"])
    if not consumers[key] then return kong.response.exit(401, { message = "Unauthorized" }) end
    ngx.req.clear_header("x-api-key")
    ngx.ctx.credential, ngx.ctx.consumer = { key = key }, { username = consumers[key] }
end
