//! The Raft group of a cluster: its log, its network, its members.
