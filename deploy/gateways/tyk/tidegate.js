// A plugin for Tyk's JavaScript engine (ECMAScript 5) that asks Tidegate whether a request may pass. Its settings are
// in the `config_data` of the API: tidegate_node, tidegate_domain and tidegate_fail_mode (closed or open).
var tidegate = new TykJS.TykMiddleware.NewMiddleware({});

var TIDEGATE_SHOWN = ["Content-Type", "Retry-After", "Ratelimit", "Ratelimit-Policy"];

// The only value of a header, or undefined.
function tidegateHeader(headers, name) {
  for (var known in headers) {
    if (known.toLowerCase() === name) {
      return [].concat(headers[known]).join(", ");
    }
  }
}

function tidegateAsk(request, settings) {
  var headers = {
    "X-Forwarded-Method": request.Method,
    "X-Forwarded-Uri": request.RequestURI,
    "X-Forwarded-Host": tidegateHeader(request.Headers, "host") || ""
  };
  ["x-api-key", "user-agent"].forEach(function (name) {
    var value = tidegateHeader(request.Headers, name);
    if (value !== undefined) {
      headers[name] = value;
    }
  });
  try {
    return JSON.parse(TykMakeHttpRequest(JSON.stringify({
      Method: "GET",
      Domain: settings.tidegate_node,
      Resource: "/v1/authorize?domain=" + encodeURIComponent(settings.tidegate_domain),
      Headers: headers
    })));
  } catch (problem) {
    log("tidegate: " + problem);
    return null;
  }
}

tidegate.NewProcessRequest(function (request, session, spec) {
  var answer = tidegateAsk(request, spec.config_data);
  var overrides = request.ReturnOverrides;
  if (!answer || !answer.Code || answer.Code >= 500) {
    if (spec.config_data.tidegate_fail_mode !== "open") {
      overrides.ResponseCode = 503;
      overrides.ResponseError = "the rate limiter does not answer";
    }
  } else if (answer.Code !== 200) {
    overrides.ResponseCode = answer.Code;
    overrides.ResponseError = answer.Body;
    overrides.ResponseHeaders = {};
    TIDEGATE_SHOWN.forEach(function (name) {
      var value = tidegateHeader(answer.Headers, name.toLowerCase());
      if (value !== undefined) {
        overrides.ResponseHeaders[name] = value;
      }
    });
  }
  return tidegate.ReturnData(request, session.meta_data || {});
});
