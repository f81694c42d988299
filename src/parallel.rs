//! Many short questions on several cores.

/// Below this a thread costs more than it saves.
const PER_THREAD: usize = 512;
/// A long listing takes so many cores at most, for it must leave some to git.
const THREADS_MAX: usize = 4;

/// `ask` of each, in their order, on several cores if they are many: what a listing costs is a few microseconds of
/// system calls for each. Blocking.
pub fn of_each<T: Sync, R: Send>(all: &[T], ask: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS_MAX);
    let part = all.len().div_ceil(cores).max(PER_THREAD);
    if all.len() <= part {
        return all.iter().map(ask).collect();
    }
    std::thread::scope(|scope| {
        let ask = &ask;
        let parts: Vec<_> =
            all.chunks(part).map(|part| scope.spawn(move || part.iter().map(ask).collect::<Vec<R>>())).collect();
        let told =
            parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        told.collect()
    })
}
