"""The rest of `categories_sample.py`: prompts for summaries, labels and extracts, and those that fit no category."""

ROWS: dict[str, str] = {
    "summarization": r"""
Summarize this for a second-grade student: Volcanoes form where melted rock from deep inside the Earth pushes up
    through cracks. When pressure builds, the rock, ash and gas burst out. Over time the layers build a mountain.
The council met for five hours on Tuesday. It approved the bike lane on Mill Street, put off the vote on the swimming
    pool and rejected the parking fee. Mayor Odell left early. tl;dr
give me the gist of this mail: "Hi all, after long talks with facilities we can't get the 3rd floor in May. June is
    likely. Until then please keep working in the annex and badge in at gate B. Sorry for the back and forth. Lou"
in one sentence: Lena inherits a failing cinema, finds old reels in the cellar, screens them for the village, and
    learns that her grandfather was a spy.
Customer: My router died again.⏎Agent: Did you restart it?⏎Customer: Five times. Third one this year.⏎Agent: I'll send
    a new one.⏎⏎Summarize the above conversation and state any complaints that the customer has.
key takeaways? - The study followed 1,200 nurses over ten years. Night shifts went with worse sleep, but not with
    weight gain. Those who rotated weekly fared worst.
too long for me, shorten to the main points: The warranty is valid for 24 months from purchase. It does not cover
    wear, water or drops. Send the item with receipt. Repairs take about three weeks. Shipping is free within the EU.
Abstract: We train sparse autoencoders on protein models and find features that match binding sites. Steering them
    changes the predicted structure. Code is public.⏎⏎What is this paper about, two lines max
What happened here, briefly: 09:02 deploy started. 09:05 error rate 40 %. 09:11 rollback. 09:20 all green. Cause: a
    missing index.
Condense: Otters hold hands while they sleep so that they don't drift apart. Mothers wrap their pups in kelp for the
    same reason. In captivity they keep doing it, even in pools without current.
make a headline out of this: A 92-year-old retired postman from Ghent has walked every street of his city, 1,874 in
    all, with the same pair of shoes.
meeting notes below, i missed it, what did they decide⏎- budget: frozen until Q3⏎- Ana leaves in May, Jo takes over⏎-
    new logo: green one won
Boil it down to 10 words. Our tests show that the new seal keeps water out at up to three bars, while the old one
    began to leak at two.
write an abstract for my text: Sourdough needs time. I baked forty loaves at four temperatures. Cooler dough took
    twice as long but tasted better in a blind test with twelve neighbours.
summary plz >> The bill would ban single-use vapes from 2026, fund youth clinics with the fines, and exempt refillable
    devices. Retailers oppose it; doctors want it to go further.
Chapter 3. Ishaan hides the letter. His sister finds it and, instead of telling, adds a line of her own. The father
    reads it at dinner and laughs for the first time in years. -- recap for my book club
For execs, one line: Churn rose from 3.1 to 3.9 %, mostly among small shops hit by the price change in February; large
    accounts were stable.
review: "Room was clean, staff lovely, but the street is loud till 2am and breakfast ran out by nine. Great pool.
    Would come back in winter." short version
Explain the essence of this clause in a sentence: The tenant shall bear the costs of minor repairs up to 100 euros
    each, but no more than 8 % of the yearly rent in total.
Sum up both sides. A: Cars should leave the centre, the air is awful. B: Then my shop dies, my customers are old and
    drive.
TLDR this thread⏎u1: update broke bluetooth⏎u2: same, pixel 6⏎u3: clear the cache of the bluetooth app, worked for
    me⏎u1: omg thanks
Lesson text: The heart has four chambers. The right side pumps blood to the lungs, the left side to the body. Valves
    stop backflow. -> condensed study notes
The following is a transcript. Provide an overview. "So, um, basically the pump works, but the, the filter clogs after
    like a week, and we, yeah, we need finer mesh, and Bob orders it."
cut this obituary down to 20 words: Rosa Lindt, born in 1931 in Bremen, taught mathematics for forty years, raised
    three children, bred roses and died on Sunday surrounded by her family.
I have 30 seconds, what does it say? Dear residents, water will be off on Thursday from 8 to 14 h in all flats of
    staircase C. Please fill bottles. The lift stays in use.
Plot in brief please: A king divides his realm among his daughters by how well they flatter him. The honest one gets
    nothing. He loses everything and dies with her in his arms.
the most important facts from this: Honeyguides lead people to bees' nests. People take the honey, birds get the wax.
    In Mozambique the two use special calls for each other.
Digest of our chat: Mia: beach? Tom: no, rain. Mia: museum then, 2pm? Tom: ok, the one with the whale. Mia: bring the
    kids.
abridge -> Once there was a fox who saw grapes high on a vine. He jumped and jumped and could not reach them. At last
    he walked off and said they were sour anyway.
Release 4.2: faster start, dark mode for tables, 31 bugs fixed, Windows 8 no longer supported, new licence for
    plug-ins. Users want it in a nutshell
"Dear Sir, I write for the third time about the hedge..." (goes on: it blocks the light, the neighbour was asked
    twice, she wants it cut by May or she'll sue). What does the old lady want, in short?
What's the short of it, for the notice board? Owing to maintenance of the photovoltaic system, the roof terrace must
    not be entered by unauthorized persons between 3 and 7 June.
One tweet that captures this article: Researchers in Kyoto taught rats to drive tiny cars. Rats that drove were calmer
    than rats that were driven.
3 bullets max: Sales of e-bikes fell 12 %. Stocks are high, so dealers cut prices. Cargo bikes alone grew, by 9 %,
    thanks to city grants. Makers expect a turn in 2026.
Fasse zusammen: Der Verein hat 2024 zwölf neue Mitglieder gewonnen, das Dach saniert und das Sommerfest wegen Regen
    abgesagt. Die Kasse ist ausgeglichen.
worum geht's hier kurz? "Sehr geehrte Damen und Herren, wegen Bauarbeiten entfällt der Halt in Neudorf bis 12. Mai.
    Busse fahren alle 20 Minuten ab dem Rathaus."
Résume en une phrase : Le maire a inauguré la médiathèque, qui a coûté deux fois plus que prévu, sous les sifflets
    d'une partie des habitants.
resumen corto por favor: El equipo perdió tres partidos seguidos, cambió de entrenador y desde entonces no ha vuelto a
    perder.
用一句话概括：小王每天坐两小时地铁上班，后来他辞职开了面馆，生意很好，但他更忙了。
resume pra mim: A empresa adiou o lançamento por falta de chips, vai dar desconto a quem já comprou e promete entregar
    até agosto.
""",
    "classification": r"""
Is this tweet positive, negative or neutral? "Third delay today. Love this airline. /s"
spam or not: Congratz!! you have been choosen for a FREE cruise, reply YES
On a scale from 1-10, how sarcastic is this person? "Oh great, another meeting. Just what I needed."
sort these into fruit and vegetable: tomato, carrot, apple, cucumber, leek
for (int i = 0; i < n; ++i) std::cout << a[i];⏎What programming language is this?
Label each ticket as billing, technical or other.⏎1. I was charged twice⏎2. App crashes on login⏎3. Do you have a
    store in Oslo?
genre? "The detective lit a cigarette and looked at the body. It was going to be a long night."
toxic yes/no: you play like my dead grandmother
Which category does 'running shoes, size 42, waterproof' belong to: Electronics, Sports, Home, Toys?
assign a sentiment⏎- food was cold⏎- loved the waiter⏎- it was ok i guess
Fact or opinion? Pizza tastes better in Naples than anywhere else.
Does the review talk about price, quality or delivery? "Came two days late and the box was crushed."
language id: "Kde je nejbližší nádraží?"
Decide if the second sentence follows from the first (entailment / contradiction / neutral). A: All the shops are
    closed. B: The bakery is open.
urgent or can wait -> "server room is at 41 degrees and rising"
Tweet: I can't believe how good this is! Sentiment: positive⏎Tweet: Worst. Update. Ever. Sentiment: negative⏎Tweet: It
    arrived on Tuesday. Sentiment:
Rate the difficulty of this question as easy, medium or hard: Prove that there are infinitely many primes.
noun, verb or adjective: swift; wither; candour; loathe; brittle
is the following email phishing? "Your mailbox is full, verify now at mail-verify-login.example or lose all messages"
Which of these are mammals: bat, penguin, whale, gecko, platypus
tag with a topic (politics, sport, science, culture): "Parliament rejects the budget at the third reading"
Formal or informal register: 'We hereby acknowledge receipt of your letter.'
Given the text, say whether a citation is missing (YES/NO): Studies have shown that cats sleep 15 hours a day.
Emotion of the speaker, one of joy anger fear sadness: I keep checking that the door is locked.
intent for a bank bot {balance, transfer, block_card, human}: "lost my wallet on the bus help"
true/false/unverifiable for each: 1) The Moon orbits Earth 2) My neighbour is shy 3) Sharks are plants
A headline is clickbait when it withholds the point. Clickbait? "You won't believe what this vet found in a sock"
Would you file this under bug, feature request or question? "It would be nice if the table remembered my sort order"
Group the following animals by where they live. cod, mole, eagle, squid, worm, swallow
for each line say who it's likely from, customer or agent: a) Have you tried turning it off? b) I want a refund
metaphor or simile: her voice was velvet
grade this answer as correct/partly/incorrect. Q: Why do leaves turn yellow? A: Because the chlorophyll breaks down.
PG or R? A film in which two kids find a corpse by the railway, some swearing, no gore
Is it hate speech? "People who put pineapple on pizza should be banned from my kitchen"
Ist diese Bewertung positiv oder negativ? "Naja, für den Preis hätte ich mehr erwartet."
ordne den Abteilungen zu (Vertrieb, IT, Personal): Urlaubsantrag, Drucker kaputt, Angebot für Kunde Meier
Ce commentaire est-il injurieux, oui ou non : « Retourne jouer aux billes, arbitre ! »
clasifica como queja, elogio o consulta: "¿abren los domingos?"
判断情感是正面还是负面：这家店的服务真让人无语。
esse e-mail é urgente ou não? "quando puder, me manda as fotos do churrasco"
""",
    "extraction": r"""
Extract all place names from this: We drove from Tartu through Riga to a village near Kaunas and slept in Suwałki.
pull out the dates: signed on 3 May 2021, amended 17.9.2022, expires at the end of 2026
List every ingredient mentioned. "Melt butter, stir in flour, pour in warm milk, add nutmeg and a pinch of salt."
Given the following movie titles, write down any names of cities: Midnight in Paris; Heat; Casablanca; The Third Man;
    An American in Paris
who are the people named here? "Ms Okoro told Liam that neither Petra nor the Duke would come."
json with name, price, currency from: The Alba lamp costs 49 euros, the Nera lamp 65 dollars
course titles from the table please⏎| id | title | hours |⏎| 1 | Welding | 20 |⏎| 2 | Upholstery | 12 |
get all the hashtags out of this post: sunday vibes #slow #bread so tired #nofilter
All verbs in the sentence: The fox sneaked in, grabbed a hen and vanished.
Action items with owner? Notes: Kim sends the draft by Friday, we liked the blue. Omar books the room. Budget is fine.
"Invoice 2291, due 14 June, total 318.40 EUR incl. 19 % VAT" -> due date and total only
find the error codes⏎INFO start⏎ERR E1042 disk⏎WARN slow⏎ERR E2001 net
From the review, copy the phrases that complain: "Lovely view. The tap dripped all night. Kind staff, thin walls,
    superb jam."
Which companies appear in the paragraph? After Brightwell sold its mill to Norland Paper, Kestrel & Sons closed
    theirs.
just the numbers: about 40 guests, 3 tables, 2.5 hours and one accordion
make a csv of team,goals: The Herons scored four, the Badgers two and the Moles none.
Skills listed in this CV snippet? "Five years of Go and Terraform at a bank; fluent in Polish; hobby beekeeper."
quote the sentence that states the main claim. "Rents rise. Many blame tourists. We argue that zoning is the real
    cause. Data follow."
every URL path in here: GET /home 200, POST /cart/add 302, GET /favicon.ico 404
drug names + doses: pt takes metformin 500 mg twice daily and ramipril 5 mg in the morning, allergic to penicillin
Names of the functions defined in this code:⏎def load(p): ...⏎class A:⏎    def save(self): ...⏎x = lambda: 0
Departure, destination, number of travellers: "Hi, two adults and a kid from Malmö to Ghent next Tuesday, window seats
    if possible"
Keywords of the following abstract, verbatim, max 4: We study moss growth on north-facing roofs in humid climates with
    drone images.
colours in this poem line? "The grey sea and the long black land; and the yellow half-moon large and low"
what are the arguments the author gives, word for word: "Keep the tram. It is quiet, it is clean, and my aunt likes
    it."
Birth year and death year for each: Ada Lovelace (1815-1852), Emmy Noether (1882-1935)
question marks only: Is it late? I think so. Are you hungry? Good. Shall we? -> give back those sentences
fill the form {first, last, city} from "this is Bola Adeyemi calling from Ibadan about the piano"
"Plot 7: oak 12 m, ash 9 m. Plot 8: beech 21 m." tree species, comma separated
Identify the subject and the object: The clumsy waiter spilled the soup.
all the adjectives, one a line: a tiny, rusty key lay under the enormous green door
which versions are affected? "The flaw is in 2.3 to 2.7; 2.8 has the fix; 1.x never had the module."
characters + what they carry: Hilde with a ladder met old Knut, who had a goose under his arm.
the email subject lines from these headers⏎Subject: Lunch?⏎From: a⏎Subject: Re: boiler⏎Date: Mon
Nenne alle Berufe im Text: Der Bäcker grüßte die Hebamme, während der Schornsteinfeger auf das Dach stieg.
Beträge raus bitte: Miete 740 Euro, Strom 61 Euro, der Rest ist geschenkt
Relève les noms d'animaux : Le renard guettait la poule, mais l'âne fit peur au renard.
saca los nombres y las edades: Lucía tiene 8 años y su primo Iván, 11
提取文中的地名：我们从成都出发，经过西安，最后到了敦煌。
quais produtos aparecem? "comprei arroz, dois sabonetes e fiado um refrigerante"
""",
    "other": r"""
start with where
asdfghjkl
test
Look up "cowboy" on Google and give me the results.
stop
Johnathan Silver goes to the market every day, and brings back a
continue
set an alarm for 6:40 tomorrow
...
no not like that, the other one
page 2 of 3
From now on answer in at most two sentences and never use emojis.
what did i ask you yesterday
order me a large pepperoni, usual address
1 1 2 3 5 8
delete everything you know about me
Open the attached file and tell me if page 3 is signed
/help
404
turn off the lights in the living room
see above
The old bridge had been closed since the flood, and
forget the last thing i said
lorem ipsum dolor sit amet
play some jazz, volume 30
(sent from my phone)
call me when you're done
blue. no, green. no wait
repeat your previous answer word for word
xx xx xx
Remember that I'm allergic to peanuts, I'll need it later
send this to Carla and mark it as read
v2_final_FINAL.docx
<|endoftext|>
ab jetzt bitte nur noch duzen
stell den Timer auf 8 Minuten
ouvre la pièce jointe stp
apaga la música
继续
desliga o wifi
""",
}
