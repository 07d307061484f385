//! `links`: runs the proxy between regions, and changes its links.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use links::config::Config;
use links::control::{Control, Reply, Request, ask};
use links::network::{Change, LinkStatus};
use links::proxy::Proxy;
use tokio::signal::unix::{SignalKind, signal};

/// A TCP proxy between regions. Its links have delay, bandwidth, loss and cuts.
#[derive(Parser)]
#[command(name = "links", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the proxy until SIGTERM or SIGINT
    Run {
        /// The configuration, in JSON
        #[arg(long)]
        config: PathBuf,
    },
    /// Changes links of a running proxy, and prints all links
    Set(Set),
    /// Prints the links of a running proxy
    Status(Target),
}

#[derive(Args)]
struct Target {
    /// The Unix socket of the running proxy
    #[arg(long)]
    control: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Set {
    #[command(flatten)]
    target: Target,
    /// The region that sends, or `all`
    #[arg(long)]
    from: String,
    /// The region that receives, or `all`
    #[arg(long)]
    to: String,
    /// Change the opposite direction, too
    #[arg(long)]
    both: bool,
    /// The one-way delay, for example 40ms
    #[arg(long, value_parser = delay_ms)]
    delay: Option<f64>,
    /// The bandwidth in bytes per second, 0 for unlimited
    #[arg(long)]
    bandwidth: Option<u64>,
    /// The probability that a segment is lost, from 0 to below 1
    #[arg(long)]
    loss: Option<f64>,
    /// Let nothing arrive; connections stay open
    #[arg(long, conflicts_with = "heal")]
    cut: bool,
    /// End a cut; what was held arrives one delay later
    #[arg(long)]
    heal: bool,
    /// Reset all connections over the link
    #[arg(long)]
    reset: bool,
}

/// Reads a delay with its unit, in milliseconds.
fn delay_ms(text: &str) -> Result<f64, String> {
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1000.0),
        _ => ("", 1.0),
    };
    let number: Option<f64> = number.parse().ok();
    number.map(|number| number * factor).ok_or_else(|| "expected for example 40ms or 2s".to_owned())
}

impl Set {
    fn change(&self) -> Change {
        let cut = if self.cut { Some(true) } else { self.heal.then_some(false) };
        Change {
            from: self.from.clone(),
            to: self.to.clone(),
            both: self.both,
            delay_ms: self.delay,
            bytes_per_second: self.bandwidth,
            loss: self.loss,
            cut,
            reset: self.reset,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run { config } => run(&config).await,
        Command::Set(set) => command(&set.target, &Request::Set(set.change())).await,
        Command::Status(target) => command(&target, &Request::Status).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("links: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Path) -> Result<(), String> {
    let config = Config::read(config)?;
    let proxy = Arc::new(Proxy::bind(&config).await.map_err(|error| error.to_string())?);
    let control = Control::bind(&config.control).await.map_err(|error| error.to_string())?;
    let mut terminated = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    tokio::select! {
        () = Arc::clone(&proxy).run() => {}
        () = control.run(proxy) => {}
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

async fn command(target: &Target, request: &Request) -> Result<(), String> {
    match ask(&target.control, request).await.map_err(|error| error.to_string())? {
        Reply::Error(error) => Err(error),
        reply if target.json => {
            println!("{}", serde_json::to_string(&reply).map_err(|error| error.to_string())?);
            Ok(())
        }
        Reply::Status { links, rejected } => {
            print!("{}", table(&links));
            if rejected > 0 {
                println!("rejected connections: {rejected}");
            }
            Ok(())
        }
    }
}

/// One line for each link between two regions that does something, or did.
fn table(links: &[LinkStatus]) -> String {
    let idle = |link: &LinkStatus| {
        let plain = link.delay_ms == 0.0 && link.bytes_per_second == 0 && link.loss == 0.0 && !link.cut;
        plain && link.connections == 0
    };
    let between = links.iter().filter(|link| link.from != link.to && !idle(link));
    let line = |link: &LinkStatus| {
        let bandwidth = match link.bytes_per_second {
            0 => "unlimited".to_owned(),
            rate => format!("{rate} B/s"),
        };
        let state = if link.cut { "CUT" } else { "up" };
        format!(
            "{:<12} -> {:<12} {state:<3} delay {:>4} ms, bandwidth {bandwidth}, loss {}, {} connections, {} bytes\n",
            link.from, link.to, link.delay_ms, link.loss, link.connections, link.bytes
        )
    };
    between.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Arguments, delay_ms};
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn delays_need_a_unit() {
        assert_eq!((delay_ms("40ms"), delay_ms("2s")), (Ok(40.0), Ok(2000.0)));
        for text in ["40", "ms", "s", "2h", "x ms"] {
            assert!(delay_ms(text).is_err(), "{text}");
        }
    }
}
