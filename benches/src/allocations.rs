//! Counts heap allocations, on both sides alike.
#![allow(
    unsafe_code,
    reason = "a global allocator is an unsafe trait; this one only forwards to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A thread adds its count to the total this often, so that threads don't fight for a cache line.
const STEP: u64 = 256;

static TOTAL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with a count of the calls that allocate.
#[derive(Debug)]
pub(crate) struct Counting;

fn count() {
    // A thread that is ending has no count of its own any more.
    let _ = OWN.try_with(|own| {
        let next = own.get() + 1;
        own.set(next);
        if next % STEP == 0 {
            TOTAL.fetch_add(STEP, Ordering::Relaxed);
        }
    });
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns the allocations and reallocations of this process so far, up to 255 a thread short.
pub(crate) fn total() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}
