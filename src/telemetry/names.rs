//! The closed list of metric names. Label values come from the rules or from a short list, never from a request.

/// The label of a domain or a limit that the rules do not name.
pub const OTHER: &str = "other";

/// A metric: its name, its help text, its labels.
pub struct Name {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

const fn metric(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Name {
    Name { name, help, labels }
}

pub const REQUESTS: Name =
    metric("rate_limiter_requests_total", "Checks by their answer: allowed, blocked or error.", &["status"]);
pub const LATENCY: Name =
    metric("rate_limiter_latency_seconds", "Time from a check's arrival to its decision, in seconds.", &[]);
pub const CHECKS: Name = metric("tidegate_checks_total", "Checks by domain and outcome.", &["domain", "outcome"]);
pub const DECISIONS: Name = metric(
    "tidegate_decisions_total",
    "Decisions of each limit: allowed, refused (denied), or shadow (would have denied).",
    &["domain", "limit", "outcome"],
);
pub const UNMATCHED: Name = metric(
    "tidegate_unmatched_total",
    "Checks that no limit matches, by domain; `other` is every domain that no rule has.",
    &["domain"],
);
pub const DEGRADED: Name = metric("tidegate_degraded_total", "Checks decided without the store.", &["reason"]);
pub const SHED: Name =
    metric("tidegate_shed_total", "Checks that were not decided, by the reason for which load was shed.", &["reason"]);
pub const UNREADABLE: Name =
    metric("tidegate_unreadable_messages_total", "gRPC messages that are too large or cannot be decoded.", &[]);
pub const UNAUTHORIZED: Name =
    metric("tidegate_unauthorized_total", "Checks without a valid token, by front end: http or grpc.", &["face"]);
pub const UNKNOWN_FIELDS: Name = metric(
    "tidegate_unknown_fields_total",
    "Calls of Envoy that have fields which this version does not know and skips.",
    &[],
);
pub const KEYS: Name = metric("tidegate_keys", "Resident keys.", &[]);
pub const WAITING: Name = metric("tidegate_waiting_checks", "Checks that wait for the store.", &[]);
pub const WITHOUT_ROOM: Name = metric(
    "tidegate_checks_without_room_total",
    "Checks that did not wait for the store, because those that waited took too much memory.",
    &[],
);
pub const TASKS: Name =
    metric("tidegate_tasks", "Tasks of this process: connections, waiting calls, batches in flight.", &[]);
pub const BATCHES: Name = metric("tidegate_store_batches_total", "Batches sent to the store.", &[]);
pub const ITEMS: Name = metric("tidegate_store_items_total", "Items in batches sent to the store.", &[]);
pub const FAILED_BATCHES: Name =
    metric("tidegate_store_failed_batches_total", "Batches that the store did not answer in time.", &[]);
pub const FAILED_ITEMS: Name = metric(
    "tidegate_store_failed_items_total",
    "Items of batches that ran, whose key the store could not serve: a wrong type, or a rejected write.",
    &[],
);
pub const CONNECTIONS: Name = metric("tidegate_connections", "Open connections of clients.", &["face"]);
pub const CLOSED: Name = metric(
    "tidegate_connections_closed_total",
    "Connections that this node closed or did not accept: full, slow, protocol, handshake (TLS), heads or peer.",
    &["face", "reason"],
);
pub const EVICTED: Name = metric(
    "tidegate_store_evicted_records_total",
    "Records that the memory store forgot before they expired, to make room for others.",
    &[],
);
pub const CUT_ANSWERS: Name = metric(
    "tidegate_cut_answers_total",
    "Answers that were cut off, because too many bytes of answers waited to be sent.",
    &["face"],
);
pub const FORWARD_AUTH: Name = metric(
    "tidegate_forward_auth_problems_total",
    "Calls of forward-auth with headers that do not count, or for which they were denied, by reason.",
    &["reason"],
);
pub const REDIS_ERRORS: Name =
    metric("redis_connection_errors_total", "Connections to Redis that failed or were lost.", &[]);
pub const DATABASE_QUERIES: Name = metric(
    "database_query_duration_seconds",
    "Time that PostgreSQL took to answer, or until the deadline, by what was asked, in seconds.",
    &["query"],
);
pub const HOLDERS: Name =
    metric("tidegate_holders", "Holders of the region, as far as this node knows: the cores of all nodes.", &[]);
pub const STORE_OK: Name = metric("tidegate_store_ok", "1 if all of the store answers, 0 if some of it does not.", &[]);
pub const ADVICE: Name =
    metric("tidegate_store_advice", "1 if a setting of the store weakens the promises.", &["advice"]);
pub const RESTARTS: Name =
    metric("tidegate_shard_restarts_total", "Shards that lost their keys because a decision panicked.", &[]);
pub const INVARIANTS: Name =
    metric("tidegate_invariant_broken_total", "Violations of an invariant; 0 is correct.", &["invariant"]);
pub const REVISION: Name = metric("tidegate_rules_revision", "Revision of the rules in force.", &[]);
pub const RELOADS: Name =
    metric("tidegate_rules_loads_total", "Rule books that were read: taken, or refused (invalid).", &["outcome"]);
pub const RULES_OK: Name = metric(
    "tidegate_rules_ok",
    "1 if the rules that were read last are in force, 0 if they were rejected and older rules stay in force.",
    &[],
);
pub const CERTIFICATE_EXPIRY: Name = metric(
    "tidegate_certificate_expiry_timestamp_seconds",
    "When the certificate of a listener expires, in seconds since the epoch.",
    &["face"],
);
pub const CERTIFICATE_RELOAD_FAILURES: Name = metric(
    "tidegate_certificate_reload_failures_total",
    "Changed certificates, keys, authorities or tokens that could not be used, by the section of the settings that names them.",
    &["section"],
);
pub const IDENTITIES: Name = metric(
    "tidegate_identity_answers_total",
    "API keys of checks: valid, unknown, expired, revoked or unavailable.",
    &["outcome"],
);
pub const LOOKUPS: Name = metric(
    "tidegate_identity_lookups_total",
    "Look-ups of API keys: found, missed, failed, or over_budget (answered without one).",
    &["outcome"],
);
pub const REFUSED: Name = metric(
    "tidegate_plane_refused_transactions",
    "Committed transactions of PostgreSQL that are not in force because the rules would not be valid.",
    &[],
);
pub const FOLLOW_ERRORS: Name = metric(
    "tidegate_plane_read_errors_total",
    "Reads of PostgreSQL's change log that failed at this node as the leader.",
    &[],
);
pub const RECONCILED: Name = metric(
    "tidegate_plane_reconciled_total",
    "Times that this node wrote back what the cluster had applied and PostgreSQL lacked.",
    &[],
);
pub const RAFT_OK: Name = metric(
    "tidegate_raft_ok",
    "1 while the Raft part of this node runs; 0 after an error, usually of the disk: the node keeps its last rules until \
     a restart.",
    &[],
);
pub const RAFT_TERM: Name = metric("tidegate_raft_term", "The term of the cluster's Raft group, at this node.", &[]);
pub const RAFT_LEADER: Name = metric("tidegate_raft_leader", "1 at the node that leads the cluster.", &[]);
pub const RAFT_LOG_INDEX: Name =
    metric("tidegate_raft_log_index", "The index of the last log entry that this node has.", &[]);
pub const RAFT_REVISION: Name =
    metric("tidegate_raft_revision", "The last revision of the database that this node has applied.", &[]);
pub const RAFT_MEMBERS: Name = metric("tidegate_raft_members", "Members of the cluster, as this node knows them.", &[]);
pub const RAFT_ELECTIONS: Name =
    metric("tidegate_raft_elections_total", "Elections that this node called to become the leader.", &[]);
pub const RAFT_REJECTED: Name = metric(
    "tidegate_raft_rejected_messages_total",
    "Messages on the cluster port that were rejected: of another cluster, of an incompatible version, from a removed \
     node, for another node, unreadable, or with the certificate of another member.",
    &["reason"],
);
pub const RAFT_SNAPSHOTS: Name =
    metric("tidegate_raft_snapshots_total", "Snapshots that this node wrote, its own and those of a leader.", &[]);
pub const RAFT_SNAPSHOT_BYTES: Name =
    metric("tidegate_raft_snapshot_bytes", "The size of the last snapshot, in bytes.", &[]);
pub const ADMIN_REJECTIONS: Name = metric(
    "tidegate_admin_rejected_tokens_total",
    "Admin calls that were rejected: wrong_token, or throttled (too many wrong tokens).",
    &["reason"],
);
pub const GOSSIP_MESSAGES: Name =
    metric("tidegate_gossip_messages_total", "Messages to other regions: heard or failed.", &["outcome"]);
pub const GOSSIP_BYTES: Name = metric(
    "tidegate_gossip_bytes_total",
    "Bytes of reports to and from other regions: sent or received.",
    &["direction"],
);
pub const GOSSIP_REPORTS: Name = metric(
    "tidegate_gossip_reports_total",
    "Reports of counts: sent to other regions, received and stored, or invalid.",
    &["direction"],
);
pub const GOSSIP_REJECTED: Name = metric(
    "tidegate_gossip_rejected_total",
    "Messages of other regions that were rejected, by the reason.",
    &["reason"],
);
pub const GOSSIP_KEYS: Name =
    metric("tidegate_gossip_keys", "Keys whose counts this node keeps for other regions.", &[]);
pub const GOSSIP_DROPPED: Name = metric(
    "tidegate_gossip_dropped_total",
    "Reports of keys that this node had no room for: other regions do not hear of them from it.",
    &[],
);
pub const REGION_PARTITIONED: Name =
    metric("tidegate_region_partitioned", "1 if the region does not hear this node.", &["region"]);
pub const REGION_HEARD_AGE: Name = metric(
    "tidegate_region_heard_age_seconds",
    "The age of the last message of this node that the region has acknowledged.",
    &["region"],
);
pub const REGION_BEHIND: Name =
    metric("tidegate_region_behind_keys", "Keys whose newest count the region is not told yet.", &["region"]);
pub const RIGHTS_QUESTIONS: Name = metric(
    "tidegate_rights_questions_total",
    "Questions for rights of limits under escrow that this node asked other regions.",
    &["outcome"],
);
pub const RIGHTS_TAKEN: Name =
    metric("tidegate_rights_taken_total", "Rights of limits under escrow that the region gave this node.", &["region"]);
pub const RIGHTS_UNREPLICATED: Name = metric(
    "tidegate_rights_unreplicated_total",
    "Batches of rights that no replica confirmed in time: the other region was not told of them.",
    &[],
);
pub const RIGHTS_BEST_EFFORT: Name = metric(
    "tidegate_rights_best_effort",
    "1 if a primary without a replica gave rights away: a failover may admit more than a limit under escrow.",
    &[],
);
pub const RIGHTS_DROPPED: Name = metric(
    "tidegate_rights_dropped_total",
    "Wants of rights that this node had no room for, or that were not valid.",
    &[],
);
pub const BUILD: Name = metric(
    "tidegate_build_info",
    "1, with the version and the commit of this program as labels.",
    &["version", "commit"],
);

/// Every metric of a node, apart from those of the process collector.
pub const ALL: &[&Name] = &[
    &REQUESTS,
    &LATENCY,
    &CHECKS,
    &DECISIONS,
    &UNMATCHED,
    &DEGRADED,
    &SHED,
    &UNREADABLE,
    &UNAUTHORIZED,
    &UNKNOWN_FIELDS,
    &KEYS,
    &WAITING,
    &WITHOUT_ROOM,
    &TASKS,
    &BATCHES,
    &ITEMS,
    &FAILED_BATCHES,
    &FAILED_ITEMS,
    &CONNECTIONS,
    &CLOSED,
    &CUT_ANSWERS,
    &EVICTED,
    &FORWARD_AUTH,
    &REDIS_ERRORS,
    &DATABASE_QUERIES,
    &HOLDERS,
    &STORE_OK,
    &ADVICE,
    &RESTARTS,
    &INVARIANTS,
    &REVISION,
    &RELOADS,
    &RULES_OK,
    &CERTIFICATE_EXPIRY,
    &CERTIFICATE_RELOAD_FAILURES,
    &IDENTITIES,
    &LOOKUPS,
    &REFUSED,
    &FOLLOW_ERRORS,
    &RECONCILED,
    &RAFT_OK,
    &RAFT_TERM,
    &RAFT_LEADER,
    &RAFT_LOG_INDEX,
    &RAFT_REVISION,
    &RAFT_MEMBERS,
    &RAFT_ELECTIONS,
    &RAFT_REJECTED,
    &RAFT_SNAPSHOTS,
    &RAFT_SNAPSHOT_BYTES,
    &ADMIN_REJECTIONS,
    &GOSSIP_MESSAGES,
    &GOSSIP_BYTES,
    &GOSSIP_REPORTS,
    &GOSSIP_REJECTED,
    &GOSSIP_KEYS,
    &GOSSIP_DROPPED,
    &REGION_PARTITIONED,
    &REGION_HEARD_AGE,
    &REGION_BEHIND,
    &RIGHTS_QUESTIONS,
    &RIGHTS_TAKEN,
    &RIGHTS_UNREPLICATED,
    &RIGHTS_BEST_EFFORT,
    &RIGHTS_DROPPED,
    &BUILD,
];
