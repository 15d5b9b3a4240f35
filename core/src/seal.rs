//! Entries as records of a ledger, each linked to the one before it; and the nodes of its tree. What a record is, byte for byte, is
//! said in `docs/reference/ledger-format.md`.

use crate::sha256::{Digest, Mac, Sha256};

/// A core without parts.
pub(crate) const CORE: usize = 135;
const SEQ: std::ops::Range<usize> = 44..52;
const PREV: std::ops::Range<usize> = 71..103;
const ENV_HASH: std::ops::Range<usize> = 103..135;
const MAC_LABEL: &[u8] = b"aud1/mac";
const LEAF: &[u8] = b"\x00";
const NODE: &[u8] = b"\x01";

/// Seals entries behind each other. `core` is that of the first but for the hash of its env; the others have the numbers behind its.
///
/// `packed` has room for the records, `leaves` for their leaves. None for envs that are too long, or numbers beyond the last.
pub(crate) fn seal<'a>(
    envs: impl Iterator<Item = &'a [u8]>,
    mut core: [u8; CORE],
    mac: &Mac,
    mut packed: &mut [u8],
    leaves: &mut [Digest],
) -> Option<()> {
    let mut seq = u64::from_be_bytes(core[SEQ].try_into().ok()?);
    for (env, room) in envs.zip(leaves) {
        core[SEQ].copy_from_slice(&seq.to_be_bytes());
        core[ENV_HASH].copy_from_slice(&Sha256::of(&[env]));
        let leaf = Sha256::of(&[LEAF, &core]);
        let length = u32::try_from(env.len()).ok()?;
        for piece in [&core[..], &length.to_be_bytes(), env, &mac.of(&[MAC_LABEL, &leaf])] {
            let (taken, left) = packed.split_at_mut_checked(piece.len())?;
            taken.copy_from_slice(piece);
            packed = left;
        }
        core[PREV].copy_from_slice(&leaf);
        *room = leaf;
        seq = seq.checked_add(1)?;
    }
    Some(())
}

/// The parents of nodes that stand beside each other; one that is left over has none.
pub(crate) fn parents(nodes: &[Digest], parents: &mut [Digest]) {
    for (pair, parent) in nodes.chunks_exact(2).zip(parents) {
        *parent = Sha256::of(&[NODE, &pair[0], &pair[1]]);
    }
}
