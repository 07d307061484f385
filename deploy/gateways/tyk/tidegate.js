// A plugin for Tyk's JavaScript engine (ECMAScript 5) that asks Tidegate whether a request may pass. Its settings are
// in the `config_data` of the API: tidegate_node, tidegate_domain, tidegate_fail_mode (closed or open), and
// tidegate_token if the node wants one.
var tidegate = new TykJS.TykMiddleware.NewMiddleware({});

// The client's values of these headers count.
var TIDEGATE_PASSED_ON = ["x-api-key", "user-agent"];
var TIDEGATE_SHOWN = ["Content-Type", "Retry-After", "Ratelimit", "Ratelimit-Policy"];

// The values of a header.
function tidegateValues(headers, name) {
  for (var known in headers) {
    if (known.toLowerCase() === name) {
      return headers[known];
    }
  }
  return [];
}

function tidegateAsk(request, settings) {
  var headers = {
    "X-Forwarded-Method": request.Method,
    "X-Forwarded-Uri": request.RequestURI,
    "X-Forwarded-Host": tidegateValues(request.Headers, "host")[0] || ""
  };
  if (settings.tidegate_token) {
    headers["Authorization"] = "Bearer " + settings.tidegate_token;
  }
  TIDEGATE_PASSED_ON.forEach(function (name) {
    var values = tidegateValues(request.Headers, name);
    if (values.length > 0) {
      headers[name] = values[0];
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

// Sets what the client gets instead of an answer of the application.
function tidegateDeny(request, code, body, headers) {
  request.ReturnOverrides.ResponseCode = code;
  request.ReturnOverrides.ResponseError = body;
  request.ReturnOverrides.ResponseHeaders = headers;
}

function tidegateCheck(request, settings) {
  // Tyk's engine can send one value only. The application might read another one.
  for (var at = 0; at < TIDEGATE_PASSED_ON.length; at++) {
    if (tidegateValues(request.Headers, TIDEGATE_PASSED_ON[at]).length > 1) {
      return tidegateDeny(request, 400, TIDEGATE_PASSED_ON[at] + ": expected one value", {});
    }
  }
  var answer = tidegateAsk(request, settings);
  if (!answer || answer.Code >= 500) {
    if (settings.tidegate_fail_mode !== "open") {
      tidegateDeny(request, 503, "the rate limiter does not answer", {});
    }
  } else if (answer.Code !== 200) {
    var shown = {};
    TIDEGATE_SHOWN.forEach(function (name) {
      var values = tidegateValues(answer.Headers, name.toLowerCase());
      if (values.length > 0) {
        shown[name] = values[0];
      }
    });
    tidegateDeny(request, answer.Code, answer.Body, shown);
  }
}

tidegate.NewProcessRequest(function (request, session, spec) {
  // Otherwise a body that is not text would pass through a text of the engine.
  request.IgnoreBody = true;
  tidegateCheck(request, spec.config_data);
  return tidegate.ReturnData(request, session.meta_data || {});
});
