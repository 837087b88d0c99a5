import type { Session } from "./session";

const PEOPLE = [
  { username: null, name: "Visitor", plan: null },
  { username: "ada", name: "Ada", plan: "pro" },
  { username: "grace", name: "Grace", plan: "free" },
];

interface Props {
  session: Session | null;
  busy: boolean;
  become: (username: string | null) => Promise<void>;
}

/** Log in as somebody, or out, with one click. */
export function People({ session, busy, become }: Props) {
  return (
    <div className="people" role="group" aria-label="Who is shopping" aria-busy={busy}>
      {PEOPLE.map(({ username, name, plan }) => (
        <button
          key={name}
          type="button"
          aria-pressed={session !== null && session.username === username}
          aria-disabled={busy}
          onClick={() => {
            if (!busy && session?.username !== username) void become(username);
          }}
        >
          {name} {plan && <span className="plan">{plan}</span>}
        </button>
      ))}
    </div>
  );
}
