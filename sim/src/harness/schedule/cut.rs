//! Which links a cut breaks.

use yakt::raft::NodeId;

use super::Cut;

/// The directed links that a cut around node `id` of `size` breaks.
pub(super) fn links(cut: Cut, id: NodeId, size: NodeId) -> Vec<(NodeId, NodeId)> {
    let nth = |step: u64| (id - 1 + step) % size + 1;
    let position = |node: NodeId| (node + size - id) % size;
    let others: Vec<NodeId> = (1..size).map(nth).collect();
    let all = (1..=size).flat_map(|from| (1..=size).map(move |to| (from, to)));
    let apart = |a: NodeId, b: NodeId, side: &dyn Fn(NodeId) -> bool| side(a) != side(b);
    match cut {
        Cut::Alone => all.filter(|(a, b)| apart(*a, *b, &|node| node == id)).collect(),
        Cut::Pair => all.filter(|(a, b)| apart(*a, *b, &|node| position(node) < 2)).collect(),
        Cut::Deaf => others.iter().map(|other| (*other, id)).collect(),
        Cut::Mute => others.iter().map(|other| (id, *other)).collect(),
        Cut::Bridge => all
            .filter(|(a, b)| *a != id && *b != id)
            .filter(|(a, b)| apart(*a, *b, &|node| position(node) <= size / 2))
            .collect(),
        Cut::Ring => all
            .filter(|(a, b)| {
                let distance = a.abs_diff(*b);
                distance > 1 && distance < size - 1
            })
            .collect(),
        Cut::OneLink => vec![(nth(1), id)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(cut: Cut) -> Vec<(NodeId, NodeId)> {
        links(cut, 4, 5)
    }

    #[test]
    fn cuts_break_the_links_that_they_name() {
        assert_eq!(cut(Cut::Alone).len(), 8);
        assert!(cut(Cut::Alone).iter().all(|(a, b)| *a == 4 || *b == 4));
        assert_eq!(cut(Cut::Pair).len(), 12);
        assert!(!cut(Cut::Pair).contains(&(4, 5)) && cut(Cut::Pair).contains(&(5, 1)));
        assert_eq!(cut(Cut::Deaf), [(5, 4), (1, 4), (2, 4), (3, 4)]);
        assert_eq!(cut(Cut::Mute), [(4, 5), (4, 1), (4, 2), (4, 3)]);
        assert_eq!(cut(Cut::OneLink), [(5, 4)]);
    }

    #[test]
    fn a_bridge_joins_two_sides_and_a_ring_its_neighbours() {
        let bridge = cut(Cut::Bridge);
        assert_eq!(bridge.len(), 8);
        assert!(bridge.iter().all(|(a, b)| *a != 4 && *b != 4));
        let ring = cut(Cut::Ring);
        assert_eq!(ring.len(), 10);
        assert!(!ring.contains(&(1, 5)) && ring.contains(&(1, 3)));
    }
}
