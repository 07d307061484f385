//! Unary gRPC calls. Several calls share one connection.

use std::rc::Rc;

use h2::Reason;
use hyper::body::Bytes;
use hyper::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use tonic::Status;

use crate::answer;
use crate::call::Call;
use crate::connection::{Http2Sender, SharedConnection};
use crate::plan::LoadPlan;
use crate::worker::{InFlightCall, Worker};

/// Sends one call at a time on `connection` until no slots are left.
pub async fn run_calls(worker: Rc<Worker>, connection: Rc<SharedConnection>) {
    let head = request_head(&worker.plan);
    let call = worker.plan.call;
    let mut sender = connection.sender().await;
    let mut body = Vec::new();
    while let Some(slot) = worker.pacer.next().await {
        let keys = worker.keys(slot);
        let request = worker.plan.check.body(call, &keys);
        let in_flight = InFlightCall::new(&worker, slot);
        body.clear();
        let mut status = send_call(&mut sender, &head, request.clone(), &mut body).await;
        if status.as_ref().is_err_and(|error| !error.may_be_processed) {
            // The server closed the connection before it read the call, so the call may be repeated.
            sender = connection.renew(&worker.plan).await;
            status = send_call(&mut sender, &head, request, &mut body).await;
        }
        in_flight.end();
        match status {
            Ok(status) => {
                let (outcomes, error) = match call {
                    Call::Batch(_) => answer::decode_batch(&body).unwrap_or_default(),
                    _ => (answer::decode_single(call, &body).into_iter().collect(), None),
                };
                let is_first = worker.recorder.borrow().unlimited.is_none();
                if is_first && !outcomes.is_empty() {
                    worker.recorder.borrow_mut().unlimited = Some(!answer::limit_applied(call, &body));
                }
                let cause = || error.or(status).unwrap_or_else(|| "the answer could not be decoded".to_owned());
                worker.record_answer(slot, &keys, &outcomes, cause);
            }
            Err(CallError { error, .. }) => {
                worker.recorder.borrow_mut().record_lost(1, || error.to_string());
                sender = connection.renew(&worker.plan).await;
            }
        }
    }
}

/// The error of a call that got no answer.
struct CallError {
    /// False if the server has certainly not processed the call.
    may_be_processed: bool,
    error: h2::Error,
}

impl CallError {
    fn not_sent(error: h2::Error) -> Self {
        Self { may_be_processed: false, error }
    }

    /// An error after the head of the call was sent. A server that closes a connection in order does not process the
    /// calls that arrive later.
    fn after_sending(error: h2::Error) -> Self {
        let closed_in_order = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        Self { may_be_processed: !closed_in_order, error }
    }
}

/// Sends one call and appends the answer to `body`. Returns the gRPC status if the call has no answer.
async fn send_call(
    sender: &mut Http2Sender,
    head: &Request<()>,
    request: Bytes,
    body: &mut Vec<u8>,
) -> Result<Option<String>, CallError> {
    *sender = sender.clone().ready().await.map_err(CallError::not_sent)?;
    let sent = sender.send_request(head.clone(), false);
    let (response, mut request_stream) = sent.map_err(CallError::not_sent)?;
    request_stream.send_data(request, true).map_err(CallError::after_sending)?;
    let response = response.await.map_err(CallError::after_sending)?;
    let (parts, mut chunks) = response.into_parts();
    while let Some(chunk) = chunks.data().await {
        let chunk = chunk.map_err(CallError::after_sending)?;
        chunks.flow_control().release_capacity(chunk.len()).map_err(CallError::after_sending)?;
        body.extend_from_slice(&chunk);
    }
    if parts.status == StatusCode::OK && !body.is_empty() {
        return Ok(None);
    }
    let trailers = chunks.trailers().await.map_err(CallError::after_sending)?.unwrap_or_default();
    Ok(Some(describe_status(parts.status, &parts.headers, &trailers)))
}

/// Returns the head of the plan's gRPC requests.
pub fn request_head(plan: &LoadPlan) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    // The address was resolved before, so an invalid authority cannot occur here.
    if let Ok(uri) = format!("http://{}{}", plan.authority, plan.call.path()).parse() {
        *request.uri_mut() = uri;
    }
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

/// Returns the gRPC status of a call and its message, or the HTTP status if there is no gRPC status.
pub fn describe_status(status: StatusCode, headers: &HeaderMap, trailers: &HeaderMap) -> String {
    let grpc_status = Status::from_header_map(trailers).or_else(|| Status::from_header_map(headers));
    match grpc_status {
        Some(grpc) if grpc.message().is_empty() => format!("{:?}", grpc.code()),
        Some(grpc) => format!("{:?}: {}", grpc.code(), grpc.message()),
        None => format!("HTTP status {}", status.as_u16()),
    }
}
