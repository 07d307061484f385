//! The links between regions: delays, losses, repeats and cuts.

use super::context::{Context, Event};
use super::faults::FaultKind;
use super::ids::RegionIndex;

/// Sends a message from one region to another. Schedules `event` for each copy that arrives.
pub fn send(cx: &mut Context<'_>, from: RegionIndex, to: RegionIndex, event: impl Fn() -> Event) {
    let (mut lost, mut repeated, mut slower_us) = (0, 0, 0);
    for kind in cx.active_faults(from) {
        if let FaultKind::LossyLink { to: other, lost: now_lost, repeated: now_repeated, up_to_ms } = *kind
            && other == to
        {
            (lost, repeated, slower_us) =
                (lost.max(now_lost), repeated.max(now_repeated), slower_us.max(up_to_ms * 1000));
        }
    }
    let (is_lost, is_repeated) = (cx.rng.links.chance(lost), cx.rng.links.chance(repeated));
    if is_lost || is_cut(cx, from, to) {
        return;
    }
    for _ in 0..1 + usize::from(is_repeated) {
        let least = cx.plan.regions.delay_us(from, to);
        // Two messages may change their order.
        let delay = least + cx.rng.links.between(0, least / 10) + cx.rng.links.between(0, slower_us);
        cx.schedule_in(delay, event());
    }
}

/// True if no message passes from one region to another now.
fn is_cut(cx: &Context<'_>, from: RegionIndex, to: RegionIndex) -> bool {
    let cuts = |kind: &FaultKind| match kind {
        FaultKind::CutRegions { other } | FaultKind::CutRegionsOneWay { to: other } => *other == to,
        _ => false,
    };
    cx.is_faulty(from, cuts) || cx.is_faulty(to, |kind| *kind == FaultKind::CutRegions { other: from })
}
