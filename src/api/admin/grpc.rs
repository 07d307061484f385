//! The admin API over gRPC: `tidegate.admin.v1.AdminService`. It translates to the same calls as HTTP.

use std::net::IpAddr;

use limiter::Revision;
use limiter::rules::Problem;
use plane::UserRow;
use proto::tidegate::admin::v1 as pb;
use proto::tidegate::admin::v1::admin_service_server::{AdminService, AdminServiceServer};
use proto::tidegate::admin::v1::list_request::Of;
use serde_json::Value;
use tonic::{Request, Response, Status};

use super::AdminState;
use super::auth::Action;
use super::wire::{MAX_BOOK, of_problem};
use crate::api::http::Peer;
use crate::api::rejection::{Rejection, violation};
use crate::api::request_id::RequestId;
use crate::ports::admin::{Actor, AdminRole, Changed, ConfigChange, Expiry, List, Page};
use crate::rulefile::{decode, encode};

/// The gRPC front end of the admin API.
#[derive(Clone)]
pub struct Grpc(pub AdminState);

/// The gRPC service. A message may have a whole rule book.
pub fn service(state: AdminState) -> AdminServiceServer<Grpc> {
    AdminServiceServer::new(Grpc(state))
        .max_decoding_message_size(MAX_BOOK + 1024)
        .max_encoding_message_size(4 * MAX_BOOK)
}

fn status(rejection: impl Into<Rejection>) -> Status {
    rejection.into().into_status(&RequestId::Given("admin"))
}

fn invalid(problems: Vec<Problem>) -> Status {
    status(Rejection::Invalid(problems.into_iter().map(of_problem).collect()))
}

impl Grpc {
    async fn reader<T>(&self, request: &Request<T>, role: AdminRole) -> Result<Actor, Status> {
        self.caller(request, role, Action::ReadOrAdminister).await
    }

    async fn caller<T>(&self, request: &Request<T>, role: AdminRole, action: Action) -> Result<Actor, Status> {
        let ip: IpAddr = request.extensions().get::<Peer>().ok_or_else(|| status(Rejection::Internal))?.0;
        let headers = request.metadata().clone().into_headers();
        self.0.caller(&headers, ip, role, action).await.map_err(status)
    }

    async fn change<T>(
        &self,
        request: Request<T>,
        expected: impl Fn(&T) -> Option<u64>,
        change: impl FnOnce(T) -> Result<ConfigChange, Status>,
    ) -> Result<Response<pb::Changed>, Status> {
        let actor = self.caller(&request, AdminRole::Editor, Action::Write).await?;
        let message = request.into_inner();
        let expected = expected(&message).map(Revision);
        let changed = self.0.plane.change(actor, change(message)?, expected).await.map_err(status)?;
        let Changed { revision, in_force, key } = changed;
        let (api_key, key_id) = key.map(|key| (key.api_key.0, key.key_id)).unzip();
        Ok(Response::new(pb::Changed { revision: revision.0, in_force, api_key, key_id }))
    }
}

/// A change that has no precondition.
const fn any<T>(_: &T) -> Option<u64> {
    None
}

#[tonic::async_trait]
impl AdminService for Grpc {
    async fn get_rules(&self, request: Request<pb::GetRulesRequest>) -> Result<Response<pb::RuleBook>, Status> {
        self.reader(&request, AdminRole::Viewer).await?;
        let (rules, revision) = match request.into_inner().revision {
            None => {
                let book = self.0.plane.book();
                (encode::rules_json(book.rules()), book.revision.0)
            }
            Some(revision) => {
                let rules = self.0.plane.rules_at(Revision(revision)).await.map_err(status)?;
                (encode::rules_json(&rules), revision)
            }
        };
        Ok(Response::new(pb::RuleBook { revision, rules: rules.to_string() }))
    }

    async fn put_rules(&self, request: Request<pb::PutRulesRequest>) -> Result<Response<pb::Changed>, Status> {
        let read = |message: pb::PutRulesRequest| {
            if message.rules.len() > MAX_BOOK {
                return Err(status(Rejection::TooLarge(MAX_BOOK)));
            }
            decode::read_rules(&message.rules).map(ConfigChange::PutRules).map_err(invalid)
        };
        self.change(request, |message| message.expected_revision, read).await
    }

    async fn put_limit(&self, request: Request<pb::PutLimitRequest>) -> Result<Response<pb::Changed>, Status> {
        let read = |message: pb::PutLimitRequest| {
            let pb::PutLimitRequest { domain, name, limit, .. } = message;
            let limit = decode::read_limit(&limit, Some(&name)).map_err(invalid)?;
            if limit.name != name {
                let message = format!("expected the name of the message, {name:?}");
                return Err(status(Rejection::Invalid(vec![violation("/name", message)])));
            }
            Ok(ConfigChange::PutLimit { domain, limit: Box::new(limit) })
        };
        self.change(request, |message| message.expected_revision, read).await
    }

    async fn remove_limit(&self, request: Request<pb::RemoveLimitRequest>) -> Result<Response<pb::Changed>, Status> {
        let change = |pb::RemoveLimitRequest { domain, name, .. }| Ok(ConfigChange::RemoveLimit { domain, name });
        self.change(request, |message| message.expected_revision, change).await
    }

    async fn rollback(&self, request: Request<pb::RollbackRequest>) -> Result<Response<pb::Changed>, Status> {
        let change = |message: pb::RollbackRequest| Ok(ConfigChange::Rollback(Revision(message.revision)));
        self.change(request, |message| message.expected_revision, change).await
    }

    async fn put_tier(&self, request: Request<pb::PutTierRequest>) -> Result<Response<pb::Changed>, Status> {
        let change = |pb::PutTierRequest { tier, description }| Ok(ConfigChange::PutTier { tier, description });
        self.change(request, any, change).await
    }

    async fn remove_tier(&self, request: Request<pb::RemoveTierRequest>) -> Result<Response<pb::Changed>, Status> {
        self.change(request, any, |pb::RemoveTierRequest { tier }| Ok(ConfigChange::RemoveTier { tier })).await
    }

    async fn put_user(&self, request: Request<pb::PutUserRequest>) -> Result<Response<pb::Changed>, Status> {
        let change = |pb::PutUserRequest { user, tier }| Ok(ConfigChange::PutUser(UserRow { user, tier }));
        self.change(request, any, change).await
    }

    async fn remove_user(&self, request: Request<pb::RemoveUserRequest>) -> Result<Response<pb::Changed>, Status> {
        self.change(request, any, |pb::RemoveUserRequest { user }| Ok(ConfigChange::RemoveUser { user })).await
    }

    async fn create_key(&self, request: Request<pb::CreateKeyRequest>) -> Result<Response<pb::Changed>, Status> {
        let change = |message: pb::CreateKeyRequest| {
            let pb::CreateKeyRequest { user, tier, expires_after_ms } = message;
            let expires = expires_after_ms.map_or(Expiry::Never, Expiry::After);
            Ok(ConfigChange::CreateKey { user, tier, expires })
        };
        self.change(request, any, change).await
    }

    async fn revoke_key(&self, request: Request<pb::RevokeKeyRequest>) -> Result<Response<pb::Changed>, Status> {
        self.change(request, any, |pb::RevokeKeyRequest { key_id }| Ok(ConfigChange::RevokeKey { key_id })).await
    }

    async fn rotate_key(&self, request: Request<pb::RotateKeyRequest>) -> Result<Response<pb::Changed>, Status> {
        let change = |message: pb::RotateKeyRequest| {
            let pb::RotateKeyRequest { key_id, overlap_ms, expires_after_ms } = message;
            let expires = expires_after_ms.map_or(Expiry::Never, Expiry::After);
            Ok(ConfigChange::RotateKey { key_id, overlap_ms, expires })
        };
        self.change(request, any, change).await
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        let of = request.get_ref().of();
        let role = if of == Of::Audit { AdminRole::Owner } else { AdminRole::Viewer };
        self.reader(&request, role).await?;
        let pb::ListRequest { user, limit, after, .. } = request.into_inner();
        let list = match of {
            Of::Unspecified => {
                return Err(status(Rejection::Invalid(vec![violation("of", "expected what to list")])));
            }
            Of::Tiers => List::Tiers { tier: None },
            Of::Users => List::Users { user: None },
            Of::Keys => List::Keys { user },
            Of::History => List::History,
            Of::Audit => List::Audit,
        };
        let size = match limit {
            0 => 100,
            1..=1000 => limit,
            _ => return Err(status(Rejection::Invalid(vec![violation("limit", "expected 1 to 1000")]))),
        };
        let listed = self.0.plane.list(list, Page { size, after }).await.map_err(status)?;
        let rows = listed.rows.iter().map(Value::to_string).collect();
        Ok(Response::new(pb::ListResponse { rows, next: listed.next }))
    }

    async fn get_cluster(
        &self,
        request: Request<pb::GetClusterRequest>,
    ) -> Result<Response<pb::ClusterStatus>, Status> {
        self.reader(&request, AdminRole::Viewer).await?;
        let cluster = self.0.plane.cluster().map_err(status)?;
        let members = cluster.members.into_iter().map(|member| pb::Member {
            name: member.name,
            region: member.region,
            role: member.role.as_str().to_owned(),
            address: member.address,
            revision: member.revision.map(|revision| revision.0),
            last_seen_ms: member.last_seen_ms,
        });
        let regions = self.0.plane.regions().into_iter().map(|region| pb::RegionStatus {
            region: region.region,
            weight: region.weight,
            partitioned: region.partitioned,
            heard_age_ms: region.heard_age_ms,
            round_trip_ms: region.round_trip_ms,
            behind_keys: region.behind_keys as u64,
            rights_taken: region.rights_taken,
        });
        Ok(Response::new(pb::ClusterStatus {
            name: cluster.name,
            leader: cluster.leader,
            revision: cluster.revision.0,
            members: members.collect(),
            regions: regions.collect(),
        }))
    }
}
