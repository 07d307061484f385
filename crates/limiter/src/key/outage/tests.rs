use super::*;
use crate::key::samples::{CELL_MS, CX, bucket, fixed_window};

const ID: DebtId = DebtId(9);

fn admit(outage: &mut Outage, hits: u64, effective: &EffectiveLimit) -> bool {
    outage.admit(hits, false, effective, &LastSeen::Nothing, &CX).is_some()
}

#[test]
fn a_debt_of_a_window_is_reported_until_the_store_knows_that_its_holder_knows() {
    let effective = fixed_window(10);
    let mut outage = Outage::new(&effective, ID, &CX);
    assert!(admit(&mut outage, 3, &effective));
    let debt = Debt { cell_ms: CELL_MS, id: ID, hits: Hits { charged: 3, returned: 0 } };
    let mut report = |charged, now| {
        let reports = outage.report_window();
        outage.complete_report(charged);
        (reports, outage.is_settled(now))
    };
    let ends = CX.now.plus(600_000);
    assert_eq!(report(false, ends), (vec![Report { debt, known: Hits::default() }], false));
    assert_eq!(report(true, ends), (vec![Report { debt, known: Hits::default() }], false));
    assert_eq!(report(true, ends), (vec![Report { debt, known: debt.hits }], true));
    assert_eq!(report(true, NodeTime(ends.0 - 1)), (vec![], false), "the cell still counts");
}

#[test]
fn a_confirmed_debt_that_a_server_has_again_is_reported_again() {
    let effective = fixed_window(10);
    let mut outage = Outage::new(&effective, ID, &CX);
    assert!(admit(&mut outage, 3, &effective));
    for _ in 0..2 {
        outage.report_window();
        outage.complete_report(true);
    }
    let debt = Debt { cell_ms: CELL_MS, id: ID, hits: Hits { charged: 3, returned: 0 } };
    for other in [Debt { cell_ms: CELL_MS + 1000, ..debt }, Debt { id: DebtId(8), ..debt }] {
        outage.mark_unconfirmed(&[other]);
        assert!(outage.report_window().is_empty(), "{other:?} is another debt");
    }
    outage.mark_unconfirmed(&[debt]);
    assert_eq!(outage.report_window(), [Report { debt, known: debt.hits }]);
}

#[test]
fn a_debt_of_a_bucket_is_reported_until_the_store_has_charged_it() {
    let effective = bucket(10, 10);
    let mut outage = Outage::new(&effective, ID, &CX);
    assert!(admit(&mut outage, 3, &effective));
    assert_eq!((outage.is_unreported(), outage.report_bucket(CX.store_now)), (true, 3));
    outage.complete_report(false);
    assert_eq!((outage.is_unreported(), outage.report_bucket(CX.store_now)), (true, 3));
    // One more hit is admitted before the reply comes.
    assert!(admit(&mut outage, 1, &effective));
    outage.complete_report(true);
    assert_eq!((outage.is_unreported(), outage.report_bucket(CX.store_now)), (true, 1));
    outage.complete_report(true);
    assert_eq!((outage.is_unreported(), outage.report_bucket(CX.store_now)), (false, 0));
}

#[test]
fn the_share_of_a_bucket_follows_an_edit_during_the_outage() {
    let (small, large) = (bucket(10, 10), bucket(10, 20));
    let mut outage = Outage::new(&small, ID, &CX);
    assert!(!admit(&mut outage, 6, &small), "the share is half of the burst");
    assert!(!admit(&mut outage, 11, &large));
    assert!(admit(&mut outage, 10, &large));
}
