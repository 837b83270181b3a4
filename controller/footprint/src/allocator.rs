//! An allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Bytes that are allocated in this process.
static LIVE: AtomicI64 = AtomicI64::new(0);
/// Number of allocations of the threads that are counted.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Bytes of these allocations.
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// The allocator of the system, with counters. Use it as the `#[global_allocator]`.
#[derive(Clone, Copy, Debug)]
pub struct CountingAllocator;

/// Counts the allocations of this thread from now on.
pub(crate) fn count_this_thread() {
    IS_COUNTED.with(|counted| counted.set(true));
}

/// Bytes that are allocated in this process, as the allocator of glibc rounds them.
pub(crate) fn live_bytes() -> i64 {
    LIVE.load(Relaxed)
}

/// Number and bytes of the allocations of the threads that are counted.
pub(crate) fn allocations() -> (u64, u64) {
    (ALLOCATIONS.load(Relaxed), ALLOCATED.load(Relaxed))
}

/// The size of a chunk of glibc's malloc: a header of 8 bytes, multiples of 16 bytes, at least 32.
const fn chunk_bytes(size: usize) -> usize {
    let chunk = (size + 8 + 15) & !15;
    if chunk < 32 { 32 } else { chunk }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(chunk_bytes(bytes)).unwrap_or(i64::MAX)
}

fn record(size: usize) {
    LIVE.fetch_add(signed(size), Relaxed);
    // Fails only while a thread ends.
    if IS_COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Relaxed);
        ALLOCATED.fetch_add(u64::try_from(size).unwrap_or(u64::MAX), Relaxed);
    }
}

#[expect(
    unsafe_code,
    reason = "an allocator cannot be implemented without it; every call is passed on unchanged"
)]
// SAFETY: every method has the contract of the same method of `System`, which it calls with the
// same arguments.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        record(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        record(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(signed(layout.size()), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        LIVE.fetch_sub(signed(layout.size()), Relaxed);
        record(new_size);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_rounded_as_by_glibc() {
        let sizes = [0, 1, 24, 25, 40, 41].map(chunk_bytes);
        assert_eq!(sizes, [32, 32, 32, 48, 48, 64]);
    }
}
