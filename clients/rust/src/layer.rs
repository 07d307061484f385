//! A tower layer that asks for each request before the service sees it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Check, Client};

/// A tower layer that asks for each request before the service sees it.
///
/// A request that is allowed gets the headers of the decision in its response, and the service finds the
/// [`Decision`](crate::Decision) in the request's extensions. A request that is denied is answered with the decision's
/// status and headers, and an empty body. A check that is an error is answered with the status 500: the service does
/// not see the request, and the response has the [`CheckError`](crate::CheckError) in its extensions.
#[derive(Debug)]
pub struct RateLimitLayer<D, C = HttpConnector> {
    client: Client<C>,
    describe: Arc<D>,
}

impl<D, C> RateLimitLayer<D, C> {
    /// `describe` returns what to ask for a request, or `None` for a request that is not limited. The trace context and
    /// the request id of the request are added.
    pub fn new<B>(client: Client<C>, describe: D) -> Self
    where
        D: Fn(&Request<B>) -> Option<Check>,
    {
        Self { client, describe: Arc::new(describe) }
    }
}

impl<D, C> Clone for RateLimitLayer<D, C>
where
    Client<C>: Clone,
{
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), describe: Arc::clone(&self.describe) }
    }
}

impl<S, D, C> Layer<S> for RateLimitLayer<D, C>
where
    Client<C>: Clone,
{
    type Service = RateLimit<S, D, C>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit { inner, layer: self.clone() }
    }
}

/// The service of a [`RateLimitLayer`].
#[derive(Debug)]
pub struct RateLimit<S, D, C = HttpConnector> {
    inner: S,
    layer: RateLimitLayer<D, C>,
}

impl<S: Clone, D, C> Clone for RateLimit<S, D, C>
where
    Client<C>: Clone,
{
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

/// The response of a [`RateLimit`].
pub type RateLimitFuture<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl<S, D, C, B, R> Service<Request<B>> for RateLimit<S, D, C>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    D: Fn(&Request<B>) -> Option<Check>,
    C: Connect + Clone + Send + Sync + 'static,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = RateLimitFuture<Response<R>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The service that is ready is the one that is called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let check = (self.layer.describe)(&request).map(|check| check.on_behalf_of(request.headers()));
        let client = self.layer.client.clone();
        Box::pin(async move {
            let Some(check) = check else { return inner.call(request).await };
            let decision = match client.check(&check).await {
                Ok(decision) => decision,
                Err(error) => {
                    let mut response = Response::new(R::default());
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    response.extensions_mut().insert(error);
                    return Ok(response);
                }
            };
            let (headers, status) = (decision.headers.clone(), decision.status);
            let mut response = if decision.allowed {
                request.extensions_mut().insert(decision);
                inner.call(request).await?
            } else {
                let mut response = Response::new(R::default());
                *response.status_mut() = status;
                response
            };
            response.headers_mut().extend(headers);
            Ok(response)
        })
    }
}
