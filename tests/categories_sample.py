"""Prompts to a chat assistant, labelled by hand with InstructGPT's ten categories: 40 of each, about 15 % not English.

Source of the categories: arXiv:2203.02155, table 1 and appendix A.2. Where a prompt could be two, what decides is:
closed_qa, summarization and extraction come with a text (a multiple choice is one), open_qa is asked without;
extraction hands back pieces of the text, closed_qa what follows from it; code that is asked for is generation, code
that is transformed is rewrite; wishes that text cannot fulfil, fragments and rules for later answers are other.
Rows are read by `texts.py`; the other categories are in `categories_sample_more.py`.
"""

import categories_sample_more
from texts import texts

ROWS: dict[str, str] = {
    "generation": r"""
Write a short story where a lighthouse keeper falls in love with the fog
need a linkedin post announcing that i got promoted to shift lead, not cringe pls
python function that takes a list of dicts and groups them by any key, with type hints
Compose a haiku about my cat ignoring me
a birthday poem for my grandma, she is turning 90 and loves tomatoes, max 12 lines
Draft an email to my landlord asking him to fix the heating. It's been out for nine days and I have a baby at home.
cover letter for a junior nurse position at a children's hospital, no experience besides one internship
bash script: rename all .JPEG in a folder to .jpg and log what was renamed
i want a product description for handmade oak cutting boards, ~80 words, for etsy
Come up with the opening paragraph of a crime novel that takes place entirely in an elevator.
SQL for: customers who ordered in january but not in february (tables orders(customer_id, created_at), customers(id))
Make me a workout plan for 4 weeks, 3 days each, only dumbbells
eulogy for my uncle Ray. He drove a bread truck for 40 years, told awful jokes, never missed one of my games
wedding toast, best man, two minutes, mention the time he burned down the tent
Please produce a rental contract template for a garage
rap about photosynthesis for 8th graders
HTML + CSS for a simple landing page of a dentist, one file
Here are bullet points for a reply: - can't come on friday - happy to do monday after 3 - sorry again. Turn them into
    a full mail to my professor.
3 paragraph essay on why zoos should be abolished, high school level
regex that matches german licence plates
Give me a dialogue between Death and a parking inspector
Invent a myth that explains why crows are black.
unit tests for a function slugify(title: str) -> str using pytest, edge cases incl. unicode
a limerick with the word 'spreadsheet'
Out of office message, parental leave until october, contact is my colleague Femi
dockerfile for a fastapi app with poetry, multi stage
Write the next chapter: Mara closed the door behind her and for the first time noticed that the key was warm.
tinder bio for a 34 yo carpenter who likes mushrooms and hates texting
Job ad: barista, part time, weekends, Leeds. We are a small cafe with a dog.
Create a lesson plan on fractions for a class of 25, 45 min
a react hook that debounces a value
lyrics for a country song about a broken dishwasher, chorus twice
speech for the school board, 1 min, against cutting the music program
fictional news report: town elects a goat as mayor
Schreib mir eine Kündigung für meinen Fitnessstudiovertrag zum nächstmöglichen Termin
kurze Gutenachtgeschichte für meine Tochter (5), es soll ein Bagger vorkommen
Rédige une lettre de motivation pour un stage dans une librairie à Lyon
escribe un cuento de terror de 100 palabras que pase en un ascensor
帮我写一份关于加班太多的辞职信，语气委婉一点
faz um texto pra legenda do instagram, foto da praia, clima de saudade
""",
    "open_qa": r"""
Who built the statue of liberty?
whats the capital of burkina faso
How do vaccines train the immune system?
why is the sky dark at night if there are so many stars
how many bones does a shark have
difference between a crocodile and an alligator?
Explain the Monty Hall problem to me, I still don't get why switching helps.
When did the Ottoman Empire end?
is it safe to eat potatoes that have sprouted
what does 'let sleeping dogs lie' mean
How do you take the derivative of x^x?
boiling point of ethanol in fahrenheit
who was the first woman in space and what happened to her afterwards
What is the difference between a mutex and a semaphore?
does honey ever go bad
how long do i boil an egg for soft yolk, straight from the fridge
Why did Rome fall? I only know about the barbarians.
what's the tallest building in south america rn
In git, what does rebase do that merge does not?
Is there a largest prime number?
how much protein is in 100g lentils
can dogs eat grapes
what are the symptoms of iron deficiency
what language do they speak in Suriname
Tell me about the battle of Hastings
explain like im five: inflation
Which planet has the most moons?
python: what happens if i modify a list while iterating over it
who wrote 'One Hundred Years of Solitude'
how does a heat pump work when it's freezing outside??
q: what is human life expectancy in the united states a:
i never understood what the federal reserve actually does
Is Pluto a planet again or still not?
what's the point of the electoral college
Wie viele Einwohner hat Island?
warum ist glatteis eigentlich glatt
Pourquoi les flamants roses sont-ils roses ?
¿cuántos jugadores hay en un equipo de waterpolo?
为什么海水是咸的？
qual a diferença entre vírus e bactéria
""",
    "closed_qa": r"""
Passage: The Loire rises in the Ardèche and flows for 1,006 km to Saint-Nazaire. Question: Where does it meet the sea?
What shape is the earth? A) A circle B) A sphere C) An ellipse D) A plane
"Opening hours: Tue-Fri 10-18, Sat 10-14, closed on public holidays." can I come on saturday at 3?
Help me answer questions about this story: A hen found a coin. She buried it, and a tree of bread grew. She shared it
    with all but the goose who had mocked her. What is the moral?
Tell me how hydrogen and helium differ, using these facts only: Hydrogen burns. Helium is inert. Both are lighter than
    air.
Ben has 4 cats. Each cat had 3 kittens, two of which were given away in total. According to this how many kittens
    stayed
Context: The returns window is 30 days. Sale items cannot be returned. Shipping fees are not refunded.⏎User: I bought
    a sale lamp last week. Can I send it back?
from the text, who stole the pie? | Everyone blamed Rufus, but there was flour on Granny's boots and Rufus was at the
    dentist.
Why was the match abandoned? The floodlights failed at 8:15 and, after forty minutes of waiting, the referee sent
    everyone home.
log: 12:01 connect ok / 12:04 timeout / 12:05 retry ok / 12:09 disk full. what was the first problem here
based on the recipe (200 g flour, 2 eggs, 1/4 l milk, serves 2), how many eggs do I need for 6 people?
Use the following to answer. If it isn't in there say "not stated". | Mount Ara is 2,577 m high. It has four peaks. |
    Who first climbed it?
The lease says "pets are allowed with written consent, fish excepted". do i need consent for a goldfish
Anna is taller than Bo. Bo is taller than Cy. Who's the shortest?
def f(n):⏎    return n if n < 2 else f(n - 1) + f(n - 2)⏎⏎what does f(6) return
My contract: "Notice period is three months to the end of a quarter." I quit on Feb 10. When's my last day?
Schedule: Mon yoga, Tue free, Wed choir, Thu yoga, Fri free. Which evenings could I go to the cinema?
Read: "Though hailed as a triumph, the novel sold only 212 copies in its first year." Was the book a commercial
    success at first?
Choose the right word. The committee ___ its decision yesterday. (a) announce (b) announced (c) announcing
Policy: Employees with over five years of service get 30 days, all others 26. Ravi joined in 2021 and it's 2025, so
    how many does he get?
Does this article say that coffee is healthy? "Three cups a day went along with fewer strokes, but the authors warn
    that coffee drinkers also smoked less."
ingredients: wheat flour, palm oil, sugar, whey powder, hazelnuts. is this vegan
Given the table: Oslo 0.7m, Bergen 0.29m, Turku 0.2m. Which one is second largest?
Which of the two offers is cheaper per litre? A: 5 l for 8.50. B: 12 l for 19.20
Dialog: "Is Mum in?" "She's at the allotment till dusk." "Then I'll take the key." Where is the mother?
The note reads: meet me where the river forks, an hour after the owls. At what time of day does he want to meet?
According to the abstract, what was the sample size? "We surveyed 418 teachers and 52 heads in rural Kenya."
Manual: Blink once = charging. Blink twice = battery low. Steady = fault. My lamp doesn't blink but is on all the
    time, so?
multiple choice, pick one and justify: The powerhouse of the cell is the 1. nucleus 2. mitochondrion 3. ribosome
"No person shall be elected more than twice." So could someone who was elected once, long ago, run again? Only the
    sentence counts.
i have the train times 7:12 7:42 8:12 and the ride takes 35 min. which one gets me there before 8:20 at the latest
From what follows, did Eliza forgive him? -- She burned the letters, all but one, which she kept under her pillow.
Premise 1: no reptiles have fur. Premise 2: all geckos are reptiles. can a gecko have fur by this
notes from vet: "1 tablet twice daily with food for 7 days." how many tablets in total
Text: "Die Fähre verkehrt von April bis Oktober stündlich." Fährt sie auch im November?
laut dem Absatz hier, wer zahlt? "Kosten der Reinigung trägt der Mieter, sofern nichts anderes vereinbart ist."
D'après ce texte, quel âge a Léo ? « Léo a deux ans de plus que sa sœur, qui fêtera ses dix ans demain. »
según el texto, ¿qué perdió Marta? "Marta volvió del mercado con las manos vacías y sin paraguas."
阅读：小明比小红大三岁，小红今年九岁。小明今年几岁？
de acordo com o aviso "piscina fechada às segundas", posso nadar na terça?
""",
    "brainstorming": r"""
List five ideas for how to regain enthusiasm for my career
names for a tabby kitten, something from greek mythology maybe
what could i cook with leftover rice, 2 eggs and half a cabbage? several options please
gift ideas for my dad who says he wants nothing (he's 68, likes trains and gardening)
What are 10 science fiction books I should read next?
need a catchy slogan for a bike repair shop, throw 15 at me
ways to make a small dark hallway look bigger
I have a free weekend in Porto. What are my options when it rains?
possible thesis topics about urban bees, bachelor level
Suggest icebreaker questions for a remote team that is tired of icebreakers.
how could a library attract more teenagers, think wild
some hobbies for someone who can't sit still and has no money
title options for my memoir on growing up above a funeral home
what might go wrong if we move our database to another region? list everything you can think of
Halloween costumes for a couple and a very large dog
Fun things to do on a 9 hour flight w/ a toddler??
party themes that are not the 80s
I'm stuck: my villain needs a motive that isn't revenge or money. Options?
Which side hustles could a retired electrician start from home?
interview questions i could ask a candidate for head chef
domain name ideas, .io, for an app that tracks houseplants
List arguments for and against a four-day week.
10 youtube video ideas for a channel about restoring old radios
hashtags for a pottery account
different ways to say no to my boss without saying no
what kinds of features would make a todo app stand out?
Help me think of reasons why sales dropped in march, we sell garden furniture
plot twists for a story set in a monastery
Podcasts or books to get into astronomy, beginner, at least seven
low cost marketing tactics for a mobile dog groomer
what can i do with 400 empty wine bottles
any alternatives to chairs in a classroom? go crazy
What should I ask my grandmother before it's too late? A list of questions.
potential weaknesses to mention in a job interview, ones that aren't fake
Ideen für einen Kindergeburtstag im Winter, 7 Jahre, kleine Wohnung
wie könnte ich meinen podcast über moore nennen?
Propose-moi des activités pour un enterrement de vie de jeune fille sans alcool
dame ideas para reutilizar palets en un balcón pequeño
给我的奶茶店想十个名字
sugestões de tema pra tcc em enfermagem
""",
    "chat": r"""
hi there, how are you today?
The following is a conversation with an AI assistant. The assistant is friendly and clever.⏎Human: Hello, who are
    you?⏎¦AI: I am an assistant. How can I help?⏎Human: I'm bored, entertain me⏎AI:
You are Marv, a chatbot that reluctantly answers with sarcasm.⏎You: How many pounds are in a kilogram?⏎Marv: This
    again? 2.2.⏎You: What does HTML stand for?⏎Marv:
lol ok you win
i had such a bad day, my boss yelled at me in front of everyone
do you ever get lonely?
Pretend you're a pirate and I'm your new cabin boy. You start.
good morning!! coffee first, then we talk
Let's play 20 questions, I have something in mind. Go
thanks, that really helped me :)
can i tell you a secret
You are an enlightened Buddha.⏎Me: What is the purpose of life?⏎Buddha: To notice it.⏎Me: And what if I can't?⏎Buddha:
are you a real person or what
she left me and idk what to do with myself anymore
Act as a job interviewer for a position as bus driver, ask me one question at a time and wait for my answer
whats your favourite movie
me: knock knock
Be my Italian waiter. I just walked into your trattoria with my family of six.
haha no way, you made that up
guess what i'm having for dinner
User: hey⏎Bot: hey! what's up?⏎User: not much, just got home from work⏎Bot: long day?⏎User: the longest⏎Bot:
I want to practise small talk. You are a neighbour I meet in the lift.
just talk to me for a bit, can't sleep
do you like me?
From now on you're Sherlock Holmes and I'm a client with a missing umbrella. Stay in character.
ugh mondays
sup
tell me about yourself, what do you enjoy
My grandma: Have you eaten? Me: yes nana. My grandma: You look thin. Me: (you play my grandma)
I won!!! I actually won the chess tournament!
you're my d&d dungeon master, i enter the tavern and look around
bye, talk tomorrow
what would you do if you were me? she wants to move to Canada
Therapist: What brings you here?⏎Me: I can't stop comparing myself to my brother.⏎Therapist:
na, wie geht's dir heute so?
Du bist jetzt mein strenger Fahrlehrer, ich sitze zum ersten Mal am Steuer. Los!
salut toi, quoi de neuf ?
hola! me siento un poco solo hoy, ¿charlamos?
你好呀，今天过得怎么样
oi, tudo bem? tô morrendo de tédio aqui
""",
    "rewrite": r"""
Translate this sentence to Spanish: The train leaves at dawn and nobody will wait for you.
fix the grammar: me and him was going to the store when it start raining
make this sound more professional: "hey, you guys messed up my order AGAIN, send a new one asap"
Rewrite the following to be more light-hearted. The committee regrets that the picnic has been cancelled because of
    wasps.
in passive voice please: The gardener buried the treasure behind the shed.
Less stiff, same meaning: We would like to take this opportunity to inform you that our offices will remain closed on
    Monday due to the public holiday.
"Your application has been declined." nicer, but still a no
say it like shakespeare would: bro your dog ate my sandwich
convert to present tense: She walked in, threw her keys on the table and said nothing.
english -> german: The warranty does not cover damage caused by pets.
my essay sentence: 'Pollution is bad because it does bad things.' can you make it less dumb
Here's the python, I need it in javascript:⏎def add(a, b=2):⏎    return a + b
Proofread. "Their going too be hear at ate oclock, so bring you're coat."
Paraphrase so that plagiarism checkers don't flag it: Bees pollinate a third of the food that we eat.
refactor this into a list comprehension⏎out = []⏎for x in xs:⏎    if x > 0:⏎        out.append(x * 2)
turn it into a formal complaint -> ur driver left my parcel in the rain its soaked and i want my money back
Can you put this text into simple words for a child? Evaporation is the transition of molecules from the liquid to the
    gaseous phase.
remove all the buzzwords: We leverage synergies to deliver best-in-class, customer-centric laundry solutions.
what would this be in Japanese, polite form: I'm sorry, I will be ten minutes late.
change every he to they: He took his coat. He said that he was tired.
I wrote to my ex: 'I hate you and I hope your plants die.' tone it down a little
First person instead of third: Ahmed woke up late. He missed his bus and had to run.
to bullet points: First boil the water, then add salt, then put in the pasta for nine minutes and finally drain it.
as a tweet, with emoji: Our bakery now opens at six in the morning on weekdays.
Correct my French: Je suis allé a la plage avec mes amis et nous avons mangés des glaces.
this paragraph but without the letter e: The tree fell.
expand this to two full sentences: Meeting moved. Room 4. Bring laptop.
Reword, gender neutral: Every policeman must polish his own boots.
rhyme version pls: The cat sat by the window. It watched the birds. It was hungry.
make this json into yaml {"name": "teapot", "sizes": [1, 2, 3], "lid": true}
American spelling: The colour of the aluminium theatre programme was grey.
is 'I look forward to hear from you' right? if not give me the right one
sound like a native speaker: I have since three years a dog and he is very lovely with kids.
Email below. Same content, half the anger.⏎---⏎Nobody told me about the meeting. As usual. Thanks for nothing.
Formuliere höflicher: Räum endlich dein Fahrrad aus dem Flur!
ins englische bitte: Die Lieferung verzögert sich um voraussichtlich zwei Wochen.
corrige les fautes : les enfant on mangés tout les gateau hier soir
pon esto en un tono más formal: oye, ¿me mandas ya la factura o qué?
把这句话翻译成英文：活到老，学到老。
deixa esse texto mais claro: em virtude do fato de que choveu, a partida não pôde vir a acontecer
""",
}

SAMPLE: tuple[tuple[str, str], ...] = tuple(
    (prompt, category) for category, block in {**ROWS, **categories_sample_more.ROWS}.items() for prompt in texts(block)
)
