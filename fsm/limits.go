package fsm

// Limits are the quotas that the state machine enforces. They are part of the
// replicated state ([Batch.AddSetLimits]), so that every node gives the same
// answer. Exceeding one is an answer that names it. A zero field means the
// default.
type Limits struct {
	BodyBytes       uint64 // bytes in one message's text; default 64 KiB, at most 1 MiB
	MailboxMessages uint64 // unread messages in one mailbox; default 100,000
	MailboxBytes    uint64 // bytes of unread texts and senders' names in one mailbox; default 256 MiB
	Users           uint64 // users; default 1,000,000
	Sessions        uint64 // open sessions; default 100,000
	Replies         uint64 // cached replies of all sessions together, about 16 bytes of memory each; default 8,000,000
}

// WithDefaults returns the limits with every zero field replaced by its default.
func (l Limits) WithDefaults() Limits {
	def := func(v *uint64, d uint64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.BodyBytes, 64<<10)
	def(&l.MailboxMessages, 100_000)
	def(&l.MailboxBytes, 256<<20)
	def(&l.Users, 1_000_000)
	def(&l.Sessions, 100_000)
	def(&l.Replies, 8_000_000)
	l.BodyBytes = min(l.BodyBytes, maxText)
	return l
}

// firstLimits are in force until a leader has had its own put into the log. They
// are part of the format: if they changed with the defaults, nodes of different
// versions would answer the same entry differently.
func firstLimits() Limits {
	return Limits{
		BodyBytes: 64 << 10, MailboxMessages: 100_000, MailboxBytes: 256 << 20,
		Users: 1_000_000, Sessions: 100_000, Replies: 8_000_000,
	}
}
