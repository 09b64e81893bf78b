//! What can go wrong in a run, and how the run is to end.

use orphan_sweeper::summary::Status;

/// One kind of fault: what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    GroundDenied,
    ClocksApart,
    ClockJumps,
    VersioningSuspended,
    PageUnanswered,
    PagesSlowDownBurst,
    PagesSlowDownForever,
    PageCut,
    PageWithoutToken,
    PageTokenOnLast,
    PageMiscounted,
    PageWithoutETag,
    PageWithoutAges,
    PageRepeatsToken,
    PageDisorder,
    PageRepeatsKey,
    PageEndsEarly,
    PagesEmptyForever,
    NoConnection,
    NamesReset,
    StatementTimeout,
    RowSecurity,
    NamesDisorder,
    NameNotText,
    NameOfOtherForm,
    SerializationFailure,
    TruncateAndReload,
    TableEmpty,
    WrongDatabase,
    RestoredLastWeek,
    StaleSnapshot,
    Standby,
    DatabaseChanges,
    CheckFails,
    CheckHangs,
    CheckShort,
    LookDenied,
    SlowDownBurst,
    SlowDownForever,
    LostBeforeEffect,
    LostAfterEffect,
    UnavailableAfterEffect,
    LostLateEffect,
    KeyInternalError,
    KeyFailedAfterEffect,
    KeyAccessDenied,
    KeyPreconditionFailed,
    KeyConflict,
    KeyUnmentioned,
    KeyContradicted,
    BatchMalformed,
    BatchDenied,
    ConditionsIgnored,
    ProbeThrottled,
    CredentialsExpire,
    ManifestUnwritable,
    DiskFull,
    SummaryUnwritable,
    Deadline,
    Interrupt,
    Crash,
}

/// How a run ends that met a fault.
pub(crate) struct Expected {
    pub(crate) kind: Kind,
    /// How it ends where nothing else happens; `None` where the process is gone.
    pub(crate) usual: Option<Status>,
    /// How else it may end, by what the actors do meanwhile or because the fault came too
    /// late to matter.
    pub(crate) also: &'static [Status],
    /// Whether the run may have deleted anything, before the fault or in spite of it.
    pub(crate) may_delete: bool,
}

const fn fails(kind: Kind) -> Expected {
    Expected {
        kind,
        usual: Some(Status::Failed),
        also: &[],
        may_delete: false,
    }
}

const fn refuses(kind: Kind) -> Expected {
    Expected {
        kind,
        usual: Some(Status::Refused),
        also: &[],
        may_delete: false,
    }
}

const fn ends(kind: Kind, usual: Status, also: &'static [Status]) -> Expected {
    Expected {
        kind,
        usual: Some(usual),
        also,
        may_delete: true,
    }
}

use Status::{Completed, Failed, Incomplete, Refused};

/// The table of the test's documentation, as the histories hold the runs to it.
pub(crate) const TABLE: &[Expected] = &[
    fails(Kind::GroundDenied),
    refuses(Kind::ClocksApart),
    ends(Kind::ClockJumps, Completed, &[]),
    refuses(Kind::VersioningSuspended),
    fails(Kind::PageUnanswered),
    ends(Kind::PagesSlowDownBurst, Completed, &[]),
    fails(Kind::PagesSlowDownForever),
    fails(Kind::PageCut),
    fails(Kind::PageWithoutToken),
    fails(Kind::PageTokenOnLast),
    fails(Kind::PageMiscounted),
    fails(Kind::PageWithoutETag),
    ends(Kind::PageWithoutAges, Completed, &[]),
    // In the page behind a range's end the token is not looked at.
    ends(Kind::PageRepeatsToken, Failed, &[Completed]),
    fails(Kind::PageDisorder),
    fails(Kind::PageRepeatsKey),
    // Where nothing that is named was listed, a guard refuses.
    ends(Kind::PageEndsEarly, Completed, &[Refused]),
    fails(Kind::PagesEmptyForever),
    fails(Kind::NoConnection),
    fails(Kind::NamesReset),
    fails(Kind::StatementTimeout),
    fails(Kind::RowSecurity),
    fails(Kind::NamesDisorder),
    fails(Kind::NameNotText),
    fails(Kind::NameOfOtherForm),
    fails(Kind::SerializationFailure),
    fails(Kind::TruncateAndReload),
    refuses(Kind::TableEmpty),
    refuses(Kind::WrongDatabase),
    // An upload that somebody repeated makes a newer referenced object.
    ends(Kind::RestoredLastWeek, Refused, &[Completed]),
    // More than 10 rows of one batch that the snapshot lacked end the run.
    ends(Kind::StaleSnapshot, Completed, &[Failed]),
    refuses(Kind::Standby),
    ends(Kind::DatabaseChanges, Failed, &[]),
    ends(Kind::CheckFails, Failed, &[]),
    ends(Kind::CheckHangs, Failed, &[]),
    ends(Kind::CheckShort, Failed, &[]),
    // What dangles is looked at, too, and then nothing fails.
    ends(Kind::LookDenied, Completed, &[Incomplete]),
    ends(Kind::SlowDownBurst, Completed, &[]),
    // Spared where a row names it by the time that it would be sent again.
    ends(Kind::SlowDownForever, Incomplete, &[Failed, Completed]),
    ends(Kind::LostBeforeEffect, Incomplete, &[Completed]),
    ends(Kind::LostAfterEffect, Completed, &[Incomplete]),
    ends(Kind::UnavailableAfterEffect, Completed, &[Incomplete]),
    ends(Kind::LostLateEffect, Incomplete, &[Completed]),
    // Spared where somebody overwrote it meanwhile.
    ends(Kind::KeyInternalError, Incomplete, &[Completed]),
    ends(Kind::KeyFailedAfterEffect, Completed, &[Incomplete]),
    ends(Kind::KeyAccessDenied, Incomplete, &[]),
    ends(Kind::KeyPreconditionFailed, Completed, &[]),
    ends(Kind::KeyConflict, Completed, &[]),
    ends(Kind::KeyUnmentioned, Completed, &[Incomplete]),
    ends(Kind::KeyContradicted, Completed, &[Incomplete]),
    ends(Kind::BatchMalformed, Completed, &[]),
    ends(Kind::BatchDenied, Failed, &[]),
    refuses(Kind::ConditionsIgnored),
    ends(Kind::ProbeThrottled, Completed, &[]),
    ends(Kind::CredentialsExpire, Failed, &[Completed, Incomplete]),
    fails(Kind::ManifestUnwritable),
    ends(Kind::DiskFull, Failed, &[]),
    ends(Kind::SummaryUnwritable, Failed, &[]),
    ends(Kind::Deadline, Incomplete, &[Completed]),
    ends(Kind::Interrupt, Incomplete, &[Completed]),
    Expected {
        kind: Kind::Crash,
        usual: None,
        also: &[],
        may_delete: true,
    },
];

pub(crate) fn expected(kind: Kind) -> &'static Expected {
    TABLE
        .iter()
        .find(|expected| expected.kind == kind)
        .expect("every kind stands in the table")
}

impl Kind {
    /// Whether it stays, once it has come.
    pub(crate) fn stays(self) -> bool {
        matches!(
            self,
            Self::PagesEmptyForever
                | Self::PagesSlowDownForever
                | Self::SlowDownForever
                | Self::CredentialsExpire
                | Self::ConditionsIgnored
                | Self::StaleSnapshot
                | Self::VersioningSuspended
        )
    }

    /// Whether it needs the body of a page.
    pub(crate) fn is_in_xml(self) -> bool {
        matches!(
            self,
            Self::PageCut
                | Self::PageWithoutToken
                | Self::PageTokenOnLast
                | Self::PageMiscounted
                | Self::PageWithoutETag
        )
    }
}
