import { own } from "./api/client";
import { Feature, useFeature, useFeaturePayload } from "./features/react";

const TEAS = [
  { name: "First flush", origin: "Darjeeling, India", price: 14.5 },
  { name: "Gyokuro", origin: "Uji, Japan", price: 22 },
  { name: "Da Hong Pao", origin: "Wuyi, China", price: 18 },
];

const LEADS: Record<string, string> = {
  express: "One click, and it is on its way.",
  "one-page": "Address and payment on one page.",
  classic: "Fill a basket, then take your time.",
};

/** A payload is whatever somebody typed into PostHog: take from it only what it has. */
function field(payload: unknown, name: string): unknown {
  return typeof payload === "object" && payload !== null
    ? (payload as Record<string, unknown>)[name]
    : undefined;
}

export function Teas() {
  const checkout = useFeature("checkout");
  const button = field(useFeaturePayload("checkout"), "button");
  const sale = useFeature("web-summer-sale");
  const percent = field(useFeaturePayload("web-summer-sale"), "percent");
  const off = sale ? (typeof percent === "number" ? percent : 10) : 0;
  return (
    <section id="teas" aria-labelledby="teas-title">
      <h1 id="teas-title">Tea, well kept</h1>
      <p className="lead">
        {sale !== undefined &&
          (off ? (
            <>
              Summer sale: <mark>{off} % off</mark> everything.
            </>
          ) : (
            "Three teas that we drink ourselves."
          ))}{" "}
        {typeof checkout === "string" && (own(LEADS, checkout) ?? "")}
      </p>
      <ul className="teas" data-checkout={checkout}>
        {TEAS.map((tea) => (
          <li className="card" key={tea.name}>
            <h2>{tea.name}</h2>
            <p className="hint">{tea.origin}</p>
            <p className="price">{sale !== undefined && <Price of={tea.price} off={off} />}</p>
            <Feature name="gift-wrapping">
              <label className="check">
                <input type="checkbox" /> Wrap it as a gift
              </label>
            </Feature>
            <div className="buy">
              {checkout !== undefined && (
                <button type="button">
                  {typeof button === "string" ? button : "Add to the basket"}
                  <span className="unseen">: {tea.name}</span>
                </button>
              )}
            </div>
          </li>
        ))}
      </ul>
      <div id="offer">
        <Feature name="web-upgrade-offer">
          <p className="banner offer">
            <strong>Try the plan pro for a month.</strong> One click buys, and gifts come wrapped.
          </p>
        </Feature>
      </div>
    </section>
  );
}

function Price({ of, off }: { of: number; off: number }) {
  if (!off) return `€${of.toFixed(2)}`;
  return (
    <>
      <del>
        <span className="unseen">instead of </span>€{of.toFixed(2)}
      </del>{" "}
      €{((of * (100 - off)) / 100).toFixed(2)}
    </>
  );
}
