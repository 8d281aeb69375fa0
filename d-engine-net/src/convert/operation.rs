//! Operations and the reasons of their refusals.

use super::Malformed;
use crate::generated::v1;
use crate::generated::v1::membership_refusal::Kind;
use crate::generated::v1::operation as wire;
use crate::generated::v1::operation::Operation as Wire;
use crate::{MembershipError, Operation, Reason};

pub(crate) fn operation_to_wire(operation: Operation, forwarded: bool) -> v1::Operation {
    let operation = match operation {
        Operation::AddLearner { node, address, promote } => {
            Wire::AddLearner(wire::AddLearner { node, address, promote })
        }
        Operation::Promote { node } => Wire::Promote(wire::Promote { node }),
        Operation::Remove { node } => Wire::Remove(wire::Remove { node }),
        Operation::Replace { old, node, address, promote } => {
            Wire::Replace(wire::Replace { old, node, address, promote })
        }
        Operation::Move { node, address } => Wire::MoveMember(wire::MoveMember { node, address }),
        Operation::Transfer { to } => Wire::Transfer(wire::Transfer { to }),
        Operation::MakeSnapshot => Wire::MakeSnapshot(wire::MakeSnapshot {}),
    };
    v1::Operation { operation: Some(operation), forwarded }
}

pub(crate) fn operation_from_wire(operation: v1::Operation) -> Result<(Operation, bool), Malformed> {
    let forwarded = operation.forwarded;
    let operation = match operation.operation.ok_or_else(|| Malformed::missing("the operation"))? {
        Wire::AddLearner(wire::AddLearner { node, address, promote }) => {
            Operation::AddLearner { node, address, promote }
        }
        Wire::Promote(wire::Promote { node }) => Operation::Promote { node },
        Wire::Remove(wire::Remove { node }) => Operation::Remove { node },
        Wire::Replace(wire::Replace { old, node, address, promote }) => {
            Operation::Replace { old, node, address, promote }
        }
        Wire::MoveMember(wire::MoveMember { node, address }) => Operation::Move { node, address },
        Wire::Transfer(wire::Transfer { to }) => Operation::Transfer { to },
        Wire::MakeSnapshot(wire::MakeSnapshot {}) => Operation::MakeSnapshot,
    };
    Ok((operation, forwarded))
}

pub(super) fn membership_to_wire(error: MembershipError) -> v1::MembershipRefusal {
    let refusal = |kind: Kind, node, numbers: &[u64], texts: Vec<String>| v1::MembershipRefusal {
        kind: kind.into(),
        node,
        numbers: numbers.to_vec(),
        texts,
    };
    use MembershipError as E;
    match error {
        E::UnknownMember { node } => refusal(Kind::UnknownMember, node, &[], vec![]),
        E::AlreadyMember { node } => refusal(Kind::AlreadyMember, node, &[], vec![]),
        E::OtherDirectory { node } => refusal(Kind::OtherDirectory, node, &[], vec![]),
        E::LastVoter { node } => refusal(Kind::LastVoter, node, &[], vec![]),
        E::QuorumLost { node, voters, answering, needed } => {
            refusal(Kind::QuorumLost, node, &[voters, answering, needed], vec![])
        }
        E::NotCaughtUp { node, matched, last } => refusal(Kind::NotCaughtUp, node, &[matched, last], vec![]),
        E::InProgress { index } => refusal(Kind::InProgress, 0, &[index], vec![]),
        E::NoChange => refusal(Kind::NoChange, 0, &[], vec![]),
        E::TooOld { node, offers, needs } => refusal(Kind::TooOld, node, &[offers, needs], vec![]),
        E::Unreachable { node, address, why } => refusal(Kind::Unreachable, node, &[], vec![address, why]),
        E::OtherCluster { node, address, theirs, ours } => {
            refusal(Kind::OtherCluster, node, &[], vec![address, theirs, ours])
        }
        E::OtherNode { node, address, found } => refusal(Kind::OtherNode, node, &[found], vec![address]),
        E::NotTransferred { node, why } => refusal(Kind::NotTransferred, node, &[], vec![why]),
    }
}

pub(super) fn membership_from_wire(refusal: v1::MembershipRefusal) -> Reason {
    let v1::MembershipRefusal { kind, node, numbers, texts } = refusal;
    let number = |place: usize| numbers.get(place).copied().unwrap_or_default();
    let text = |place: usize| texts.get(place).cloned().unwrap_or_default();
    use MembershipError as E;
    let error = match Kind::try_from(kind) {
        Ok(Kind::UnknownMember) => E::UnknownMember { node },
        Ok(Kind::AlreadyMember) => E::AlreadyMember { node },
        Ok(Kind::OtherDirectory) => E::OtherDirectory { node },
        Ok(Kind::LastVoter) => E::LastVoter { node },
        Ok(Kind::QuorumLost) => E::QuorumLost { node, voters: number(0), answering: number(1), needed: number(2) },
        Ok(Kind::NotCaughtUp) => E::NotCaughtUp { node, matched: number(0), last: number(1) },
        Ok(Kind::InProgress) => E::InProgress { index: number(0) },
        Ok(Kind::NoChange) => E::NoChange,
        Ok(Kind::TooOld) => E::TooOld { node, offers: number(0), needs: number(1) },
        Ok(Kind::Unreachable) => E::Unreachable { node, address: text(0), why: text(1) },
        Ok(Kind::OtherCluster) => E::OtherCluster { node, address: text(0), theirs: text(1), ours: text(2) },
        Ok(Kind::OtherNode) => E::OtherNode { node, address: text(0), found: number(0) },
        Ok(Kind::NotTransferred) => E::NotTransferred { node, why: text(0) },
        Ok(Kind::Unspecified) | Err(_) => {
            return Reason::Unsupported { why: format!("a newer node refused a membership change, kind {kind}") };
        }
    };
    Reason::Membership(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_survives_the_wire() {
        let address = || "a:1".to_owned();
        let operations = [
            Operation::AddLearner { node: 4, address: address(), promote: true },
            Operation::Promote { node: 4 },
            Operation::Remove { node: 4 },
            Operation::Replace { old: 3, node: 4, address: address(), promote: false },
            Operation::Move { node: 4, address: address() },
            Operation::Transfer { to: 2 },
            Operation::MakeSnapshot,
        ];
        for operation in operations {
            for forwarded in [false, true] {
                let wire = operation_to_wire(operation.clone(), forwarded);
                assert_eq!(operation_from_wire(wire), Ok((operation.clone(), forwarded)));
            }
        }
        assert!(operation_from_wire(v1::Operation::default()).is_err());
    }

    #[test]
    fn every_refusal_survives_the_wire() {
        use MembershipError as E;
        let text = |text: &str| text.to_owned();
        let errors = [
            E::UnknownMember { node: 4 },
            E::AlreadyMember { node: 4 },
            E::OtherDirectory { node: 4 },
            E::LastVoter { node: 4 },
            E::QuorumLost { node: 4, voters: 2, answering: 1, needed: 2 },
            E::NotCaughtUp { node: 4, matched: 7, last: 9 },
            E::InProgress { index: 8 },
            E::NoChange,
            E::TooOld { node: 4, offers: 1, needs: 2 },
            E::Unreachable { node: 4, address: text("a:1"), why: text("refused") },
            E::OtherCluster { node: 4, address: text("a:1"), theirs: text("x"), ours: text("y") },
            E::OtherNode { node: 4, address: text("a:1"), found: 5 },
            E::NotTransferred { node: 4, why: text("dead") },
        ];
        for error in errors {
            assert_eq!(membership_from_wire(membership_to_wire(error.clone())), Reason::Membership(error));
        }
        let newer = v1::MembershipRefusal { kind: 99, ..Default::default() };
        assert!(matches!(membership_from_wire(newer), Reason::Unsupported { .. }));
    }
}
