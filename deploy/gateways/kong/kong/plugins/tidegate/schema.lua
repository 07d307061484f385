local typedefs = require "kong.db.schema.typedefs"

return {
    name = "tidegate",
    fields = {
        { protocols = typedefs.protocols_http },
        { config = {
            type = "record",
            fields = {
                -- The HTTP addresses of the nodes of this region.
                { nodes = { type = "array", required = true, len_min = 1, elements = typedefs.url } },
                { domain = { type = "string", required = true, len_min = 1 } },
                -- Of a try, from its first to its last byte, in milliseconds. A check has two tries at most.
                { timeout = { type = "integer", default = 250, between = { 1, 60000 } } },
                -- Sent as `Authorization: Bearer`.
                { token = { type = "string" } },
                -- What happens to a request if no node answers.
                { fail_mode = { type = "string", default = "closed", one_of = { "closed", "open" } } },
                -- The attribute that gets the name of Kong's consumer. The node must have it in
                -- `listen.attribute_headers`.
                { consumer_attribute = { type = "string", match = "^[a-z0-9_-]+$" } },
            },
        } },
    },
}
