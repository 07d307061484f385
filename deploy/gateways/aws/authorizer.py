"""A Lambda authorizer for AWS API Gateway that asks Tidegate whether a request may pass.

It takes the events of REST APIs, and of HTTP APIs with payload version 2.0 and simple responses. Environment:

    TIDEGATE_NODES      addresses of nodes, as host:port, separated by commas
    TIDEGATE_DOMAIN     the domain of the checks
    TIDEGATE_FAIL_MODE  closed (default) or open: what happens if no node answers
"""

import http.client
import os
from urllib.parse import quote, urlencode

TRY_SECONDS = 0.25
TRIES = 2
# The header of an answer, and its name in the context, which a gateway response can show.
SHOWN = {"Retry-After": "retryAfter", "RateLimit": "rateLimit", "RateLimit-Policy": "rateLimitPolicy"}

NODES = [node.strip() for node in os.environ["TIDEGATE_NODES"].split(",")]
DOMAIN = os.environ["TIDEGATE_DOMAIN"]
FAIL_MODE = os.environ.get("TIDEGATE_FAIL_MODE", "closed")
if FAIL_MODE not in ("closed", "open"):
    raise ValueError(f"TIDEGATE_FAIL_MODE: expected closed or open, got {FAIL_MODE}")

# A connection to each node, which the next calls of this function reuse.
connections = {}


def headers_of_check(event):
    context = event["requestContext"]
    sent = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    if event.get("version") == "2.0":
        method, ip = context["http"]["method"], context["http"]["sourceIp"]
        path, query = event["rawPath"], event.get("rawQueryString", "")
    else:
        method, ip = event["httpMethod"], context["identity"]["sourceIp"]
        path, query = event["path"], urlencode(event.get("queryStringParameters") or {})
    headers = {
        "X-Forwarded-Method": method,
        "X-Forwarded-Uri": quote(path, safe="/%:@!$&'()*+,;=~") + (f"?{query}" if query else ""),
        "X-Forwarded-Host": context.get("domainName") or sent.get("host", ""),
        "X-Forwarded-For": ip,
        "X-Request-Id": context["requestId"],
    }
    for name in ("x-api-key", "user-agent"):
        if name in sent:
            headers[name] = sent[name].encode("utf-8")
    return headers


def has_several_keys(event):
    """The application might read another key than the one that would be counted."""
    for name, values in (event.get("multiValueHeaders") or {}).items():
        if name.lower() == "x-api-key" and len(values) > 1:
            return True
    # Events of version 2.0 join the values of a header with commas.
    return event.get("version") == "2.0" and "," in event.get("headers", {}).get("x-api-key", "")


def ask(node, headers):
    """Returns the status and the headers of the answer. Raises OSError or HTTPException without one."""
    connection = connections.pop(node, None) or http.client.HTTPConnection(node, timeout=TRY_SECONDS)
    try:
        connection.request("GET", "/v1/authorize?" + urlencode({"domain": DOMAIN}), headers=headers)
        answer = connection.getresponse()
        answer.read()
    except BaseException:
        connection.close()
        raise
    connections[node] = connection
    return answer.status, answer.headers


def check(event):
    """Returns whether the request may pass, and the context of the answer."""
    if has_several_keys(event):
        return False, {}
    headers = headers_of_check(event)
    for attempt in range(TRIES):
        node = NODES[attempt % len(NODES)]
        try:
            status, answered = ask(node, headers)
        except (OSError, http.client.HTTPException) as problem:
            print(f"tidegate at {node}: {problem!r}")
            continue
        if status < 500:
            context = {name: answered[header] for header, name in SHOWN.items() if answered[header]}
            return status == 200, context
        print(f"tidegate at {node}: status {status}")
    return FAIL_MODE == "open", {}


def handler(event, _context):
    allowed, context = check(event)
    if event.get("version") == "2.0":
        return {"isAuthorized": allowed, "context": context}
    effect = "Allow" if allowed else "Deny"
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"]}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    return {"principalId": "client", "policyDocument": policy, "context": context}
