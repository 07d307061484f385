-- Asks Tidegate whether a request may pass, by forward-auth.
local http = require "resty.http"

-- After the plugins that authenticate (key-auth has 1250), where Kong's own rate-limiting stands.
local Tidegate = { PRIORITY = 910, VERSION = "1.0.0" }

local SHOWN_WHEN_ALLOWED = { "RateLimit", "RateLimit-Policy" }
local SHOWN_WHEN_DENIED = { "Content-Type", "Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate" }

-- The next node, and until when a node that failed gets no checks. Both belong to one worker.
local turn, failed_until = 0, {}

local function headers_of_check(conf)
    -- All headers. `kong.request.get_headers` stops after 1,000, so that a client could hide its key behind others.
    local sent = ngx.req.get_headers(0)
    local headers = {
        ["X-Forwarded-Method"] = kong.request.get_method(),
        ["X-Forwarded-Uri"] = kong.request.get_path_with_query(),
        ["X-Forwarded-Host"] = kong.request.get_host(),
        ["X-Forwarded-For"] = kong.client.get_forwarded_ip(),
        ["X-Request-Id"] = sent["x-request-id"],
        ["User-Agent"] = sent["user-agent"],
        ["X-API-Key"] = sent["x-api-key"],
        ["Authorization"] = conf.token and "Bearer " .. conf.token,
    }
    -- key-auth with hide_credentials has removed the header. It keeps the key in the credential.
    local credential = kong.client.get_credential()
    if credential and credential.key then headers["X-API-Key"] = credential.key end
    local consumer = conf.consumer_attribute and kong.client.get_consumer()
    if consumer then headers["X-Tidegate-Attr-" .. conf.consumer_attribute] = consumer.username or consumer.id end
    return headers
end

-- Asks one node. The timeouts of a socket bound single steps only. A second thread bounds all of them together, from
-- the look-up of the address to the last byte of the answer.
local function ask(conf, node, headers)
    local call = ngx.thread.spawn(function()
        local client = http.new()
        client:set_timeouts(conf.timeout, conf.timeout, conf.timeout)
        local query = { domain = conf.domain }
        return client:request_uri(node .. "/v1/authorize", { query = query, headers = headers })
    end)
    local deadline = ngx.thread.spawn(function()
        ngx.sleep(conf.timeout / 1000)
        return nil, "no answer within " .. conf.timeout .. " ms"
    end)
    local ended, answer, problem = ngx.thread.wait(call, deadline)
    -- This closes the connection of a call that is late.
    ngx.thread.kill(call)
    ngx.thread.kill(deadline)
    -- A mistake in the plugin must not open a gateway that fails open.
    if not ended then error(answer) end
    if not answer then return nil, problem end
    if answer.status >= 500 then return nil, "status " .. answer.status end
    return answer
end

-- Returns the answer of the first node that has one. Asks two nodes at most, and first those that did not just fail.
local function ask_nodes(conf, headers)
    turn = turn + 1
    local healthy, failed = {}, {}
    for at = 1, #conf.nodes do
        local node = conf.nodes[(turn + at) % #conf.nodes + 1]
        table.insert((failed_until[node] or 0) > ngx.now() and failed or healthy, node)
    end
    for _, node in ipairs(failed) do table.insert(healthy, node) end
    local problem
    for at = 1, math.min(2, #healthy) do
        local answer
        answer, problem = ask(conf, healthy[at], headers)
        if answer then
            failed_until[healthy[at]] = nil
            return answer
        end
        failed_until[healthy[at]] = ngx.now() + 1
        kong.log.warn("tidegate at ", healthy[at], ": ", problem)
    end
    return nil
end

local function pick(from, names)
    local picked = {}
    for _, name in ipairs(names) do picked[name] = from[name] end
    return picked
end

function Tidegate:access(conf)
    local answer = ask_nodes(conf, headers_of_check(conf))
    if not answer then
        if conf.fail_mode == "open" then return end
        return kong.response.exit(503, { message = "the rate limiter does not answer" })
    end
    if answer.status ~= 200 then
        return kong.response.exit(answer.status, answer.body, pick(answer.headers, SHOWN_WHEN_DENIED))
    end
    kong.ctx.plugin.headers = pick(answer.headers, SHOWN_WHEN_ALLOWED)
end

function Tidegate:header_filter()
    if kong.ctx.plugin.headers then kong.response.set_headers(kong.ctx.plugin.headers) end
end

return Tidegate
