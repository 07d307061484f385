//! The driver of a core's shard: it passes events to the shard and carries out the effects that the shard returns.

use super::Region;
use crate::context::{Context, Event, Packet, PacketKind, Wake};
use crate::ids::{Boot, CheckIndex, CoreIndex};
use limiter::{Effects, Event as ShardEvent, Outgoing, TICK};

impl Region {
    /// Schedules the ticks and the probes of a core that starts.
    pub(super) fn begin_periodic_work(&mut self, cx: &mut Context<'_>, core: CoreIndex) {
        let boot = self.cores[core.0].boot;
        let core = self.id_of(core);
        let jitter = cx.rng.cores.between(0, 50_000);
        cx.schedule_in(jitter, Event::FlusherRuns { core, boot, wake: Wake::Tick });
        cx.schedule_in(jitter, Event::Probe { core, boot });
    }

    /// Passes an event to a core's shard and carries out the effects.
    pub(super) fn handle(&mut self, cx: &mut Context<'_>, core: CoreIndex, event: ShardEvent) {
        let it = &mut self.cores[core.0];
        let effects = it.shard.handle(event, it.clock(cx.now));
        self.carry_out(cx, core, effects);
    }

    /// Delivers decisions, schedules the flusher, and sends batches, as the shard asks.
    pub(super) fn carry_out(&mut self, cx: &mut Context<'_>, core: CoreIndex, effects: Effects<CheckIndex>) {
        let Effects { send, decided, flush, flush_in, news } = effects;
        self.note_reports(cx, core, news.reports);
        self.want_rights(cx, core, news.wants);
        for (check, decision) in decided {
            self.cores[core.0].waiting.remove(&check);
            self.deliver_decision(cx, check, &decision);
        }
        let id = self.id_of(core);
        let it = &mut self.cores[core.0];
        let (boot, stats) = (it.boot, it.shard.stats());
        cx.history.max_keys = cx.history.max_keys.max(stats.keys);
        cx.history.max_waiting = cx.history.max_waiting.max(stats.waiting);
        if flush && !std::mem::replace(&mut it.flush_pending, true) {
            let soon = cx.rng.network.between(0, 20);
            cx.schedule_in(soon, Event::FlusherRuns { core: id, boot, wake: Wake::Flush });
        }
        if let Some(delay) = flush_in {
            cx.schedule_in(delay, Event::FlusherRuns { core: id, boot, wake: Wake::DelayOver });
        }
        for Outgoing { lane, batch } in send {
            let primary = self.lanes[usize::from(lane.0)];
            let to_replaced = self.sends_to_replaced(core, primary);
            let (core, kind) = (id, PacketKind::Shard);
            self.send(
                cx,
                Packet { core, boot, lane, batch, primary, to_replaced, held: false, duplicate: false, kind },
            );
        }
    }

    /// Handles that the flusher of a core runs. Does nothing if the core died since.
    pub fn run_flusher(&mut self, cx: &mut Context<'_>, core: CoreIndex, boot: Boot, wake: Wake) {
        let id = self.id_of(core);
        let it = &mut self.cores[core.0];
        if !it.is_running(boot) {
            return;
        }
        it.flush_pending = false;
        if wake == Wake::Tick {
            let tick = u64::try_from(TICK.as_micros()).unwrap_or(u64::MAX);
            cx.schedule_in(tick, Event::FlusherRuns { core: id, boot, wake });
        }
        let event = match wake {
            Wake::Flush => ShardEvent::Flush,
            Wake::DelayOver => ShardEvent::FlushDelayOver,
            Wake::Tick => ShardEvent::Tick,
        };
        self.handle(cx, core, event);
    }
}
