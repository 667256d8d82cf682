package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/parley-chat/parley/bench/internal/report"
)

// paper is what lies beyond one machine, reckoned from what was measured.
func paper(sections []*report.Section) *report.Section {
	s := &report.Section{ID: "paper", Title: "Beyond one machine, on paper", Intro: paperIntro}
	text := []string{limits(sections), paperGroups, groups(sections), paperRules}
	s.Notes = strings.Join(slices.DeleteFunc(text, func(t string) bool { return t == "" }), "\n\n")
	return s
}

const paperIntro = `All of a cluster's state is on each of its nodes, and one leader orders all its commands: more
nodes make a cluster safer, not faster. So a cluster ends where one machine ends. Nothing in this part was built; it is
arithmetic with the medians above, and of a machine as it stands there.`

const paperGroups = `### Several Raft groups

What goes beyond is several groups, each with a log, a leader and a state of its own. Users are spread over
G groups by a hash of their folded name; each group has three replicas, on three of M machines. A machine then
holds 3 G / M replicas and leads G / M of them, and of a total state S it keeps 3 S / M.`

const paperRules = `### Why that needs no other promises

A command touches one key, a user or a session, and never two; so each has one group that it belongs to, and no
command needs a transaction across groups. In detail:

| what | with several groups |
|---|---|
| create, delete, send, ack | touch one user, so one group: as now |
| a session | is opened in each group that a client uses, and its numbers count there: a command still takes effect once |
| order | is promised within a mailbox, and of one sender to one recipient: both are within a group |
| reading a mailbox, watching | one group: as now. A connection carries requests for several groups, as it carries several users today |
| list | one page of each group, merged by name: as fast as the slowest group, and each part linearizable, but the whole not of one instant. The one answer that would promise less |
| quotas | of users and sessions hold within each group; those of a mailbox as now |
| a machine dies | the G / M groups that it led elect new leaders, all others go on; the write gap is that of one group |
| redirects | name the leader of a group: the group id is in the first bytes between members, in the redirect and in the data directory already, and is 0 |

What it would need, and does not have: a table of groups and their members that clients can ask for, a way to move part of
the users from one group to another ([ADR 22](adr/0022-mail-in-the-order-of-arrival.md)), and one process that shares a
disk's syncs among the logs of its groups.`

// measured finds a figure by the section, the beginning of the table's title, the
// row's title and the column. False: it was not measured.
func measured(sections []*report.Section, id, table, row string, column int) (float64, bool) {
	for _, s := range sections {
		if s.ID != id {
			continue
		}
		for _, t := range s.Tables {
			if !strings.HasPrefix(t.Title, table) || column >= len(t.Columns) {
				continue
			}
			for i, r := range t.Rows {
				if sp := t.Spread(i, column); r.Title == row && sp.N > 0 {
					return sp.Median, true
				}
			}
		}
	}
	return 0, false
}

// columnOf is the index of a column in the first table of a section; -1: none.
func columnOf(sections []*report.Section, id, title string) int {
	for _, s := range sections {
		if s.ID == id && len(s.Tables) > 0 {
			return slices.IndexFunc(s.Tables[0].Columns, func(c report.Column) bool { return c.Title == title })
		}
	}
	return -1
}

// fullRate is the most messages per second of a default cluster, and the machine.
func fullRate(sections []*report.Section) (rate float64, m *report.Machine, ok bool) {
	column := columnOf(sections, "peers", "16 conn × 256")
	if column < 0 {
		return 0, nil, false
	}
	rate, ok = measured(sections, "peers", "Rates", "Parley", column)
	for _, s := range sections {
		if s.ID == "peers" {
			m = s.Machine
		}
	}
	return rate, m, ok && m != nil
}

// limits reckons where one cluster ends.
func limits(sections []*report.Section) string {
	var rows []string
	add := func(what, reckoning string, args ...any) {
		rows = append(rows, "| "+what+" | "+fmt.Sprintf(reckoning, args...)+" |")
	}
	if rate, m, ok := fullRate(sections); ok {
		add("processors", "%s messages per second with %d cores for three nodes and the load: %.1f µs of a core for a message, all replicas and its sender included. "+
			"In a day, %s million messages", report.Number(rate), m.Cores, float64(m.Cores)*1e6/rate, report.Number(rate*86400/1e6))
		add("network", "the leader sends each message of %d bytes to two followers with about 60 bytes around it: %s MB per second at that rate",
			messageBytes, report.Number(2*rate*(messageBytes+60)/1e6))
		if micros := float64(m.Sync.Microseconds()); micros > 0 {
			add("syncs", "one takes %.0f µs: %s per second and disk, which three nodes share here. At the rate above each sync has to carry %s messages: without group commit the disk would be the end",
				micros, report.Number(1e6/micros), report.Number(3*rate*micros/1e6))
		}
	}
	if least, ok := measured(sections, "users", "Users", count(1_000), usersMemory); ok {
		if most, ok := measured(sections, "users", "Users", count(1_000_000), usersMemory); ok && most > least {
			each := (most - least) * mib / 999_000
			add("memory", "%.0f bytes for each user, of whom every one had mail: %s million users in 64 GiB", each, report.Number(64*1024*mib/each/1e6))
		}
	}
	if seconds, ok := measured(sections, "restart", "Start with 1.0 GB", "one node, after `kill -9`, until it says that it is ready", 0); ok && seconds > 0 {
		add("start", "%.1f s for 1 GB, all of which is verified: %s GB of mail until a start takes a minute", seconds, report.Number(60/seconds))
	}
	if len(rows) == 0 {
		return ""
	}
	return "### Where one cluster ends\n\n| by | reckoning |\n|---|---|\n" + strings.Join(rows, "\n")
}

// groups reckons what several groups on more machines would do.
func groups(sections []*report.Section) string {
	rate, m, ok := fullRate(sections)
	if !ok {
		return ""
	}
	perCore := rate / float64(m.Cores)
	var rows []string
	for _, c := range []struct{ machines, cores, groups int }{{3, 8, 3}, {6, 16, 12}, {12, 32, 48}} {
		replicas := 3 * c.groups / c.machines
		syncs := 1e6 / float64(max(1, m.Sync.Microseconds())) / float64(replicas)
		rows = append(rows, fmt.Sprintf("| %d with %d cores | %d | %d | %s | %s | %d GB |",
			c.machines, c.cores, c.groups, replicas, report.Number(perCore*float64(c.machines*c.cores)), report.Number(syncs), 3*1000/c.machines))
	}
	return fmt.Sprintf(`Processors add up, since groups share nothing: %s messages per second and core, replicas and senders included, times the
cores there are. Syncs do not: all replicas of a machine share its disk, and each needs enough of them for its latency. With the
disk measured here:

| machines | groups | replicas on each | messages per second, at most | syncs per second for each replica | disk for each TB of state |
|---|---:|---:|---:|---:|---:|
%s

The messages per second suppose that users are spread evenly and that a group makes use of all the cores it is given, which
was measured with no more than two. One mailbox is always in one group: the most that a single
mailbox takes is what one group does.`, report.Number(perCore), strings.Join(rows, "\n"))
}
