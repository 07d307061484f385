//! HTTP/1.1 calls. Each connection carries one request at a time.

use std::rc::Rc;

use http_body_util::{BodyExt, Full};
use hyper::http::{HeaderValue, Method, Request, StatusCode, header};

use crate::answer::CheckOutcome;
use crate::call::Call;
use crate::connection::{Http1Sender, RECONNECT_DELAY, connect_http1};
use crate::worker::{InFlightCall, Worker};

/// Sends one request at a time on one connection until no slots are left. Replaces a lost connection.
pub async fn run_calls(worker: Rc<Worker>, mut sender: Http1Sender) {
    let plan = &worker.plan;
    while let Some(slot) = worker.pacer.next().await {
        let keys = worker.keys(slot);
        if sender.ready().await.is_err() {
            match connect_http1(plan).await {
                Ok(new) => sender = new,
                Err(error) => {
                    worker.recorder.borrow_mut().record_lost(1, || error.to_string());
                    tokio::time::sleep(RECONNECT_DELAY).await;
                    continue;
                }
            }
        }
        let mut request = Request::new(Full::new(plan.check.body(plan.call, &keys)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = hyper::Uri::from_static(Call::Http.path());
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(host) = HeaderValue::from_str(&plan.authority) {
            request.headers_mut().insert(header::HOST, host);
        }
        let response = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let in_flight = InFlightCall::new(&worker, slot);
        let response = response.await;
        in_flight.end();
        match response {
            Ok((StatusCode::OK, _)) => worker.record_answer(slot, &keys, &[CheckOutcome::Admitted], String::new),
            Ok((StatusCode::TOO_MANY_REQUESTS, _)) => {
                worker.record_answer(slot, &keys, &[CheckOutcome::Denied], String::new);
            }
            Ok((status, body)) => worker.record_answer(slot, &keys, &[], || describe_problem(status, &body)),
            Err(error) => worker.recorder.borrow_mut().record_lost(1, || error.to_string()),
        }
    }
}

/// Returns the status of an HTTP answer and the problem details of its body (RFC 9457).
fn describe_problem(status: StatusCode, body: &[u8]) -> String {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first_error = &problem["errors"][0];
    let parts = [&first_error["pointer"], &first_error["detail"], &problem["detail"], &problem["title"]];
    let parts = [format!("HTTP status {}", status.as_u16())]
        .into_iter()
        .chain(parts.iter().filter_map(|part| part.as_str()).map(str::to_owned));
    parts.collect::<Vec<_>>().join(": ")
}
