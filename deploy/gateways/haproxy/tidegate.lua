-- The action `lua.tidegate URL DOMAIN MODE` asks Tidegate whether a request may pass. If no node answers, MODE decides:
-- `closed` answers 503, and `open` lets the request pass.
local shown = { "content-type", "retry-after", "ratelimit", "ratelimit-policy" }

-- The client's values of these headers count. They may come several times: the node says what follows from that.
local passed_on = { "x-api-key", "user-agent", "x-request-id" }

core.register_action("tidegate", { "http-req" }, function(txn, address, domain, mode)
    local headers = {
        ["X-Forwarded-Method"] = { txn.sf:method() },
        ["X-Forwarded-Uri"] = { txn.sf:pathq() },
        ["X-Forwarded-Host"] = { txn.sf:req_fhdr("host") },
        ["X-Forwarded-For"] = { txn.sf:src() },
    }
    local sent = txn.http:req_get_headers()
    for _, name in ipairs(passed_on) do
        -- HAProxy counts the values of a header from 0.
        if sent[name] then headers[name] = table.move(sent[name], 0, #sent[name], 1, {}) end
    end
    local url = "http://" .. address .. "/v1/authorize?domain=" .. domain
    local answer = core.httpclient():get { url = url, headers = headers, timeout = 1000 }
    if answer.status == 200 then
        for _, name in ipairs({ "ratelimit", "ratelimit-policy" }) do
            local values = answer.headers[name]
            if values then txn:set_var("txn.tidegate_" .. name:gsub("-", "_"), values[0]) end
        end
        return
    end
    local unavailable = answer.status < 400 or answer.status >= 500
    if unavailable and mode == "open" then return end
    local reply = txn:reply { status = unavailable and 503 or answer.status, body = answer.body }
    for _, name in ipairs(shown) do
        local values = answer.headers and answer.headers[name]
        if values then reply:add_header(name, values[0]) end
    end
    txn:done(reply)
end, 3)
