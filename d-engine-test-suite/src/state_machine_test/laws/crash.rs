//! Laws of crashes, damage and full disks.

use super::StateMachineBuilder;
use crate::crash::crash_laws;
use crate::state_machine_test::subject::Machine;

crash_laws! { StateMachineBuilder:
    /// A process that is killed leaves the state after exactly the entry that `last_applied` names.
    kill_nine_leaves_one_moment = kill of Machine,
        "the log is applied again from last_applied on: effects beyond it would be applied twice, those before it never";
    /// A copy of the directory of a stopped process is what a kill at that moment would have left.
    copies_of_a_stopped_process_hold_one_moment = copies of Machine,
        "a crash may come between any two system calls, also in the middle of an install";
    /// Every state that a crash may leave on a simulated disk is the one after some entry.
    crash_images_hold_one_moment = images of Machine,
        "the order in which a device keeps unsynced writes is nobody's promise";
    /// After a loss of power the state is the one after some entry, not before the last flush, install or reset.
    power_cut_leaves_one_moment = power_cut of Machine,
        "the log is purged up to what was flushed or installed; nothing could rebuild it";
    /// Damaged files are an error or no damage at all.
    damage_is_corrupt_and_never_another_state = damage of Machine,
        "a replica whose state changes silently answers what no other replica answers";
    /// A write or sync that failed is an error of the call that needed it.
    a_failed_write_or_sync_is_an_error = failed_calls of Machine,
        "the log is purged up to what flush() says is durable";
    /// A full disk is refused with `NoSpace`; the same call succeeds once there is space, and reads go on.
    a_full_disk_is_clean_and_retryable = full_disk of Machine,
        "a full disk is ordinary; a replica goes on by itself once there is space";
}
