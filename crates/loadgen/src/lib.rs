//! The load tool behind `tidegate bench`. It measures any rate limiter in a closed loop (a fixed number of calls in
//! flight) or in an open loop (a fixed number of calls per second, however fast the server answers).
//!
//! In an open loop, the latency of a call counts from the instant at which the call is due, even if the tool sends it
//! late because earlier calls have no answer yet. The report therefore contains the waiting time (it avoids Tene's
//! "coordinated omission").

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::dbg_macro
    )
)]

mod answer;
mod call;
mod check_template;
mod compare;
mod connection;
mod framing;
mod http1;
mod key_distribution;
mod load_thread;
mod pacer;
mod percentile;
mod plan;
mod plot;
mod recorder;
mod report;
mod run;
mod stream;
mod unary;
mod worker;

pub use call::Call;
pub use charts::group_thousands;
pub use check_template::CheckTemplate;
pub use compare::{ComparedFigure, SettingDifference, compare_figures, compare_settings};
pub use key_distribution::KeyDistribution;
pub use percentile::Percentile;
pub use plan::{LoadPlan, RunLength};
pub use plot::plot_svg;
pub use recorder::MAX_COUNTED_KEYS;
pub use report::{FailureCounts, LatencySummary, Report, SecondSummary, format_latency};
pub use run::run;
