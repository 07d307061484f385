//! Tidegate's own gRPC calls.

use std::sync::Arc;

use futures_util::future::join_all;
use proto::tidegate::v1::rate_limit_service_server::RateLimitService;
use proto::tidegate::v1::{
    CheckBatchRequest, CheckBatchResponse, CheckRequest, CheckResponse, ReserveRequest, ReserveResponse, ResetRequest,
    ResetResponse, SettleRequest, SettleResponse,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::messages::{self, CheckMessage};
use super::metadata::{CallMetadata, with_id};
use super::stream::{Answers, answers};
use crate::api::attributes::{MAX_BATCH, MAX_BATCH_DESCRIPTORS};
use crate::api::check_service::{CheckService, Rest};
use crate::api::rejection::{Rejection, violation};
use crate::server::meter::Meter;

/// The native service of one core.
pub struct Native {
    pub service: Arc<CheckService>,
    /// Closed or changed when the node closes its connections. Streams end then.
    pub ending: watch::Receiver<()>,
}

impl Native {
    fn unimplemented<T>(&self, request: &Request<T>) -> Status {
        let metadata = CallMetadata::of(request.metadata());
        let id = self.service.ids.take(metadata.request_id.as_deref());
        self.service.reject(Rejection::NotBuilt, &id).into_status(&id)
    }
}

#[tonic::async_trait]
impl RateLimitService for Native {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let metadata = CallMetadata::of(request.metadata());
        let request = request.into_inner();
        let CheckMessage { id, check } = messages::read(request);
        let id = messages::id_of(&self.service.ids, &id, metadata.request_id.as_deref());
        let decision = match check {
            Ok(check) => self.service.check(check, metadata.timeout, &id).await,
            Err(violations) => Err(self.service.reject(Rejection::Invalid(violations), &id)),
        };
        match decision {
            Ok(decision) => Ok(with_id(Response::new(messages::to_check_response(&decision, &id)), &id)),
            Err(rejection) => Err(rejection.into_status(&id)),
        }
    }

    async fn check_batch(&self, request: Request<CheckBatchRequest>) -> Result<Response<CheckBatchResponse>, Status> {
        let metadata = CallMetadata::of(request.metadata());
        let CheckBatchRequest { checks } = request.into_inner();
        let service = &self.service;
        let weight = || checks.iter().map(|check| check.descriptors.len().max(1)).sum::<usize>();
        let too_many = if checks.len() > MAX_BATCH {
            Some(format!("expected at most {MAX_BATCH}"))
        } else if weight() > MAX_BATCH_DESCRIPTORS {
            Some(format!("expected at most {MAX_BATCH_DESCRIPTORS} descriptors in all of them"))
        } else {
            None
        };
        if let Some(expected) = too_many {
            let id = service.ids.take(metadata.request_id.as_deref());
            let rejection = Rejection::Invalid(vec![violation("checks", expected)]);
            return Err(service.reject(rejection, &id).into_status(&id));
        }
        let _permit = match service.batches.enter(weight(), || checks.iter().map(messages::message_bytes).sum()).await {
            Ok(permit) => permit,
            Err(rejection) => {
                let id = service.ids.take(metadata.request_id.as_deref());
                return Err(service.reject(rejection, &id).into_status(&id));
            }
        };
        let begun = messages::begin(service, checks.into_iter().map(messages::read), metadata.timeout, Rest::Rejected);
        let waits = begun.iter().any(messages::StartedCheck::waits);
        let each = begun.into_iter().map(|begun| begun.answer(service, metadata.request_id.as_deref()));
        let results = if waits {
            join_all(each).await
        } else {
            let mut results = Vec::new();
            for one in each {
                results.push(one.await);
            }
            results
        };
        Ok(with_id(Response::new(CheckBatchResponse { results }), &service.ids.take(metadata.request_id.as_deref())))
    }

    type CheckStreamStream = Answers;

    async fn check_stream(&self, request: Request<Streaming<CheckRequest>>) -> Result<Response<Answers>, Status> {
        let (_, extensions, requests) = request.into_parts();
        // Every connection has a meter.
        let meter = extensions.get::<Arc<Meter>>().ok_or_else(|| Status::internal("this node failed"))?;
        Ok(Response::new(answers(Arc::clone(&self.service), Arc::clone(meter), requests, self.ending.clone())))
    }

    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<ReserveResponse>, Status> {
        Err(self.unimplemented(&request))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        Err(self.unimplemented(&request))
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        Err(self.unimplemented(&request))
    }
}
