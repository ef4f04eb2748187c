use proptest::prelude::*;
use tributary_protocol::{
    Commitment, ErrorCode, Fr, MerkleTree, Path, Root,
    error::TreeError,
    poseidon::node,
    tree::{BATCH_PATH, DEPTH, empty_roots},
};

use crate::support::fr;

fn leaf(i: usize) -> Commitment {
    fr(&format!("tree.{i}")).into()
}

/// The definition, without any cleverness.
fn naive_root(leaves: &[Commitment]) -> Root {
    let mut row: Vec<Fr> = leaves.iter().map(|leaf| leaf.to_fr()).collect();
    for empty in &empty_roots()[..DEPTH] {
        row.resize(row.len().next_multiple_of(4).max(4), *empty);
        row = row.chunks(4).map(|four| node(four.try_into().unwrap())).collect();
    }
    Root::new(row[0])
}

#[test]
fn every_size_and_path_agrees_with_the_definition() {
    let leaves: Vec<Commitment> = (0..70).map(leaf).collect();
    let tree = MerkleTree::from_leaves(leaves.clone()).unwrap();
    for size in 0..=70_u32 {
        let root = naive_root(&leaves[..size as usize]);
        assert_eq!(tree.root_at(size.into()), Ok(root), "size {size}");
        for index in (0..size).filter(|i| i % 7 == 0 || i + 3 > size) {
            let path = tree.path_at(index, size.into()).unwrap();
            assert_eq!(path.root(leaves[index as usize].to_fr(), index), root, "{index} of {size}");
        }
    }
    assert_eq!(tree.root(), naive_root(&leaves));
    assert_eq!(MerkleTree::new().root(), Root::new(empty_roots()[DEPTH]));
    assert_eq!(tree.leaves().collect::<Vec<_>>(), leaves);
}

#[test]
fn what_is_not_there_is_refused() {
    let tree = MerkleTree::from_leaves((0..10).map(leaf)).unwrap();
    assert_eq!(tree.root_at(11), Err(TreeError::SizeBeyondEnd { len: 10, size: 11 }));
    assert_eq!(tree.path(10), Err(TreeError::NoSuchLeaf { index: 10, size: 10 }));
    assert_eq!(tree.path_at(5, 5), Err(TreeError::NoSuchLeaf { index: 5, size: 5 }));
    assert_eq!(tree.path_at(5, 11), Err(TreeError::SizeBeyondEnd { len: 10, size: 11 }));
    for (from, m, min) in [(0, 0, 1), (5, 5, 6), (5, 4, 6), (5, 65, 6)] {
        assert_eq!(tree.insertion(from, m), Err(TreeError::BadBatch { from, m: m.into(), min }));
    }
    assert_eq!(tree.insertion(5, 11), Err(TreeError::SizeBeyondEnd { len: 10, size: 11 }));
    assert_eq!(tree.insertion(64, 1), Err(TreeError::SizeBeyondEnd { len: 10, size: 65 }));
    assert_eq!(TreeError::SizeBeyondEnd { len: 10, size: 11 }.code(), "TRB-1402");
    assert_eq!(TreeError::BadBatch { from: 0, m: 0, min: 1 }.code(), "TRB-1404");
}

#[test]
fn a_path_of_the_wrong_length_does_not_parse() {
    let path = MerkleTree::from_leaves([leaf(0)]).unwrap().path(0).unwrap();
    let json = serde_json::to_string(&path).unwrap();
    assert_eq!(serde_json::from_str::<Path>(&json).unwrap(), path);
    assert!(serde_json::from_str::<Path<BATCH_PATH>>(&json).is_err());
}

/// Insertions chain: the new root of one is the old root of the next, whatever their sizes.
#[test]
fn insertions_chain_from_the_empty_tree() {
    let tree = MerkleTree::from_leaves((0..200).map(leaf)).unwrap();
    let mut from = 0_u64;
    let mut root = MerkleTree::new().root();
    for step in [1_u64, 2, 61, 64, 10, 54, 5] {
        let m = u8::try_from(from % 64 + step).unwrap();
        let insertion = tree.insertion(from, m).unwrap();
        assert_eq!(insertion.old_root, root);
        assert_eq!((u64::from(insertion.batch_index), u64::from(insertion.k)), (from / 64, from % 64));
        assert_eq!(insertion.leaves.len(), usize::from(m));
        from += step;
        root = insertion.new_root;
        assert_eq!(Ok(root), tree.root_at(from));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Growing in pieces and shrinking through reorganisations ends where building at once does.
    #[test]
    fn any_history_gives_the_same_tree(steps in prop::collection::vec((0_usize..90, 0_usize..60), 1..6)) {
        let mut tree = MerkleTree::new();
        let mut leaves = Vec::new();
        for (round, (add, drop)) in steps.into_iter().enumerate() {
            let new: Vec<Commitment> = (0..add).map(|i| leaf(1000 * (round + 1) + i)).collect();
            tree.append(new.clone()).unwrap();
            leaves.extend(new);
            let keep = leaves.len().saturating_sub(drop);
            tree.truncate(keep as u64);
            leaves.truncate(keep);
            prop_assert_eq!(tree.len(), leaves.len() as u64);
            prop_assert_eq!(tree.root(), naive_root(&leaves));
            let half = leaves.len() / 2;
            prop_assert_eq!(tree.root_at(half as u64), Ok(naive_root(&leaves[..half])));
        }
    }
}
