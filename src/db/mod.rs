//! PostgreSQL, in which operators write rules, users and API keys.
