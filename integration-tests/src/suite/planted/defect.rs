//! The defects: each breaks one promise of a driver.

macro_rules! defects {
    ($($name:ident: $says:literal;)*) => {
        /// What is wrong with a driver.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Defect {
            /// Nothing: a row that fails with it fails for a reason of its own.
            None,
            $(#[doc = $says] $name),*
        }

        impl Defect {
            /// Says what is wrong.
            pub(super) const fn says(self) -> &'static str {
                match self {
                    Self::None => "nothing",
                    $(Self::$name => $says),*
                }
            }

            /// Finds a defect by its name.
            pub(super) fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

defects! {
    LosesConfirmed: "one message in seven is confirmed and not sent";
    SendsTwice: "one message in seven is sent twice";
    PayloadChanged: "a byte is added to payloads";
    HeadersLost: "headers are not sent";
    KeyLost: "keys are not sent";
    SubjectLost: "subjects are not sent";
    IdChanged: "messages get another id";
    ContentTypeLost: "media types are not sent";
    BatchReversed: "a batch is sent from its end";
    DelayDropped: "delayed messages come at once";
    DelayShortened: "delayed messages come 250 ms early";
    DelayLengthened: "delayed messages come 15 s late";
    GroupNotRequired: "what no group gets is confirmed";
    HalfATransaction: "of a transaction what can be stored is";
    GroupsMerged: "all groups of a topic are one";
    AckForgotten: "one ack in seven is not passed on";
    AckedWhenFetched: "messages are acked when they are fetched";
    RetryNotCounted: "a retry is the same attempt again";
    HistoryLost: "the last error and when a message was first seen are lost";
    DeathForgotten: "dead letters are not stored";
    RetryDelayDropped: "retries come at once";
    CopyChanged: "a byte is added to the payloads of copies";
    HoldForgotten: "nothing is recorded of what holds its key";
    HoldShortened: "what holds its key is recorded with an earlier moment";
    HoldMoved: "what holds its key goes behind the others";
    StartForgotten: "nothing is recorded of what runs alone";
    FetchedReversed: "what is fetched is handed out from its end";
    FetchedForgotten: "one fetched message in seven is not handed out";
    CrashNotCounted: "who dies costs no attempt";
    NothingGivenBack: "a member that leaves gives nothing back";
    PolicyIgnored: "what is missing is made, whatever the policy says";
    SettingsIgnored: "groups with other settings are taken for the same";
    StartMoved: "groups begin where they were not told to";
    CountsWrong: "counts are one too high";
    PagesIgnored: "each page is the first";
    SelectionIgnored: "all dead letters are taken for the chosen";
    RedriveLoses: "redriven letters are removed";
    PurgeForgotten: "purged letters stay";
    LookingPurges: "who lists dead letters removes them";
    DeletionForgotten: "deleted topics and groups stay";
    DerivedListed: "derived topics are listed";
    PeekEmpty: "a peek shows nothing";
    PendingEmpty: "nothing is listed as pending";
    MissingUntold: "what is not there is not told to be missing";
    EventsLost: "the driver's events reach nobody";
    CancelForgotten: "a delayed message that was taken back comes";
}

/// Of so many messages one is hit by the defects that do not hit all.
const NTH: usize = 7;

/// Counts, and hits one in [`NTH`], the first among them.
#[derive(Debug, Default)]
pub(super) struct Turn(std::sync::atomic::AtomicUsize);

impl Turn {
    pub(super) fn hits(&self) -> bool {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(NTH)
    }
}
