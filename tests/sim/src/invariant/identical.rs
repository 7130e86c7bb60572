//! Every manager that has applied the same log holds the same state.

use skep_store::Snapshot;

/// Compares what managers hold once all have applied everything.
pub fn replicas_identical(replicas: &[Snapshot]) -> Result<(), String> {
    let Some((first, others)) = replicas.split_first() else {
        return Ok(());
    };
    for (at, other) in others.iter().enumerate() {
        if !first.same_content(other) {
            let differs = first
                .keys()
                .into_iter()
                .chain(other.keys())
                .find(|key| first.object(key) != other.object(key));
            return Err(format!("manager {} differs at {differs:?}", at + 1));
        }
    }
    Ok(())
}
