"""The wordings that speak for each of InstructGPT's categories, and how much.

Words are lower case, without accents and apostrophes. In a cue `_` stands between the words of a phrase, `^` begins
a sentence (politeness aside), `.` ends it, `a|b` is a choice of words, `*` a gap, `#` a number and `given` whatever
points at a text, such as "the following article". A weight of 6 nearly decides, 1 is a hint. English first; of other
languages what a word or two can tell. Adds nothing up: the package itself does.

Invariant: a cue is a way to ask that many people use, never the wording of one prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple

CUES: Final[Mapping[str, Mapping[int, str]]] = {
    "generation": {
        5: """
        tests|docstring|reply|response_for|to_given based_on_*_write write_*_based|using tell_me|us_a_story|joke""",
        4: """
        ^write ^wirte ^writ ^draft ^compose ^generate ^create ^creat ^craft ^author ^produce ^schreib ^schreibe
        ^verfasse ^erstelle ^entwirf ^generiere ^formuliere ^ecris ^ecrivez ^redige ^redigez ^cree ^creez ^escribe
        ^escribeme ^escriba ^redacta ^genera ^crea ^hazme ^escreva ^escreve ^redija ^crie ^gere ^elabore joke
        once_upon_a_time write_a|an|me|some|the ^make_up reply|respond_to_given|a|an|the|my|this cover_letter
        together""",
        3: """
        ^code ^implement ^build ^design ^develop ^program ^continue ^finish ^complete ^make ^prepare ^invent
        ^imagine ^reply ^respond_to_given|a|an generate|create_a|an|some|the schreib|schreibe_mir|ein|eine
        ^faz_um|uma ^fais_moi|un|une continue_given|the|writing|my poem haiku limerick sonnet lyrics eulogy vows
        toast screenplay fanfic kurzgeschichte gedicht poeme poema fairy tale lullaby monologue subject_line
        farewell flyer docker sentences|lines|words|paragraphs_about""",
        2: """
        rap essay story song speech novel verse email mail letter blog post caption ad advert bio resume cv
        newsletter description template outline memo headline message note text sms invitation horoscope
        press_release function script regex sql dockerfile html css javascript python bash query macro quiz contract
        clause program formula component class api schema page website bot app unit_tests terms_and_conditions
        policy recipe itinerary training|lesson|meal|business|workout|study|marketing_plan dialogue_between
        geschichte einen|ein_brief bewerbung rede trainingsplan histoire lettre cuento historia carta correo conto
        discurso mensaje roteiro texto paragraph on_the_topic riddle method""",
        1: """
        ^provide ^give ^help article code post|essay|text|poem|story_about|on|for about_a|my|the
        #_words|stanzas|sentences in_the_style_of tone rhyming funny saying write apologetic""",
    },
    "open_qa": {
        4: """
        what_should_i_do what_does|do_it|this|that|i|they_mean why_does|is|are_my what_could_it_be
        ^boiling|melting_point explain_like_im""",
        3: """
        ^explain ^calculate ^define ^describe ^tell_me|us_about|how|why|what|who|when|where|the|which ^how_to
        ^erklare ^erklar ^definiere ^explique ^expliquez ^explica ^defina ^teach_me ^whats ^wats ^whos ^hows
        ^i_wonder how_do|can|would|should_i|we|you difference|differences|relationship_between ^name_the
        english|german|french|spanish|italian_word_for ^number|name_of
        ^capital|population|meaning|definition|history|height|symptoms|cause|causes|inventor|origin|rules|price|cost_of
        best_time|place|way_to|for ^steps_to|for ^best_time|way|place who_was|is|invented|wrote|won|discovered
        cest_quoi how_come instructions_for|on how_does|do ^did_you_know ^is_it_true ^was_ist|sind difference
        unterschied diferencia remind_me_what|how|who
        ^longest|tallest|biggest|largest|smallest|oldest|youngest|fastest|highest|deepest|cheapest
        distance|cost_of|from|between compared_to which|what_year""",
        2: """
        meaning symptoms definition size|age|speed|temperature_of should_i|we|you ^solve what_is|are_the vs versus""",
        1: """
        how_can|long|many|much|far|old|often|tall why_do|does|is|are mean work works best_way is_it does_it can_i
        true""",
    },
    "brainstorming": {
        8: """
        pros_and_cons advantages|benefits_and_disadvantages|drawbacks ventajas_y_desventajas vor_und_nachteile""",
        6: """
        idea|ideas|ideen_for|on|about|to|fur brainstorm brianstorm brainstorming what_are_some|#
        come_up_with_#|some|a ^suggest|recommend_#|some|a|me can|could_you_think_of ideen
        story|writing|essay_prompts|topics you_can_think_of""",
        5: """
        ideas idees ideias suggestions vorschlage sugerencias sugestoes ^suggest ^recommend ^recomienda ^recomende
        ^sugira ^propose
        ^what_should|could|can_i|we_cook|make|name|call|buy|get|wear|read|watch|give|bring|eat|play|write
        what_could|can_i|we_do|make what_to_name|wear|cook|buy|get|read|watch what_to_do_in|with|on|at|for
        things_to_do things_for fun_things how_to_celebrate|surprise find_a_topic|name|title|gift come_up_with
        movies|books|songs|shows|games|films|series|bands|music_like name_for_a|my|our|the my|our_options
        books|movies|songs|games|shows_similar_to words|words_that|which_rhyme gift|gifts|present|presents_for
        que_puedo|podemos|posso|faire|peut_cocinar|hacer|cozinhar|fazer|on
        should_i_watch|read|play|cook|wear|visit|try|listen""",
        4: """
        ^give_me_some|#|several|different|options ^give_me_a_few
        ^#_ways|ideas|uses|things|reasons|tips|names|questions|topics|titles|examples ^list_#|some|ways ^list_a_few
        ^list_down names|topics|titles|slogans|themes|activities|hobbies|places|questions|nicknames_for ^think_of|up
        ^ways_to as_many_*_as_possible|you ^name_#|some ^name_a_few recommendations inspiration any_tips tips_for|on
        theme|title|titel|motto|nickname|topic|mascot|costume|hobby|logo_for|fur ^nenne|nenn_mir|#
        ^what_are_good|possible what|which_are_some|good|fun|creative|other ^list_possible|potential|things|reasons
        questions|things_to_ask|do|try|see|say|bring reasons_to|for|why|not suggestion what|which_*_should_i_*_next
        how_many_ways what_might|could_go_wrong can_*_more_fun|interesting|attractive|exciting|cozy
        to_read|watch_next list_of_*_names
        strategies|features|costumes|recipes|games|exercises|hashtags|keywords|usernames|prompts_for donne_moi_des
        noms_pour""",
        3: """
        ^list recommend suggest tips tipps consejos conseils astuces dicas ways_to examples_of options ^tips ^nenne
        ^dame alternatives_to|for slogan|tagline_for|ideas idea ^help_me_think how_could|might_i|we|a reasons
        username usernames was_kann|konnte_man|ich|wir goes|go_well_with ^any_fun|good|cool
        ^what_would|could_be|make_a|some what_else stuff_to things_i|we instead_of anything_but mogliche ^potential""",
        2: """
        possible #_ways|ideas|uses|things|reasons slogan titles topics gift gifts geschenk cadeaux ^ways ^names
        creative different_ways unique""",
    },
    "chat": {
        6: """
        how_are_you how_r_u hows_it_going how_is_it_going whats_up whats_new wie_gehts wie_geht_es ca_va que_tal
        tudo_bem about_yourself stay_in_character in_character role_play roleplay
        ^lets_talk|chat|play|pretend|roleplay|have|debate ^let_us_roleplay ^pretend how_have_you how_was|is_your
        who_are_you what_do_you_think|like your_name your_favorite|favourite what|how_about_you what_are_you
        what_should|can|could_we_talk|chat ^you_rather knock_knock would_you_rather como_estas|esta|vai
        comment_vas|allez|ca""",
        4: """
        ^act_as|like conversation_with|between|about|in have|having_a_conversation|chat|talk
        talk|chat|speak_to|with_me|you you_will_be|play_my|the|a conversation_partner
        ^are|do|did|were|have|will|would|can_you|u who_made|created|built_you ^i_feel|felt|miss|love|hate ^be
        ^im_so|feeling|sad|bored|lonely|happy|nervous|tired|really|just
        do_you|u_think|like|love|believe|feel|remember ^you_are|youre_a|an|my|now|the|not|so ^play_the_role|part
        can_i_call_you are_you_a|an|human|real interview_with ^take_on_the ^assume|embrace_the_role ^embody
        ^picture_yourself ^suppose_you role_of in_the_role from_now_on ^imagine_you|yourself ^imagine_that_you
        speak|talk|answer|respond_like can_we_*_talk|chat you_there ^guess_what|who make_me_laugh""",
        3: """
        why_are_you your|ur_opinion heyy hii hiya helo ich_heisse ^bored ^thanks ^thank ^thx ^lol ^haha ^bye
        ^goodbye ^goodnight ^good_night|morning|evening|afternoon nice_to_meet ^du_bist ^sup ^yo ^ugh ^omg ^wow ^yay
        hello hi hey chatbot ^guten ^gute ^buenos|buenas|bonjour|bonsoir|bonne|salut|hola|ola|hallo ^tu_es|eres
        ^eres ^you_are|youre ^lets just_talk broke_up rough|bad|long|hard_day youre_wrong|right|funny estoy ^ich_bin
        ^bist|hast_du ^du""",
        2: """
        ^im ^ive lonely nervous anxious stressed depressed awful ^my_day ^today muy_triste today_was im_your|a
        entertain reden""",
        1: "sad bored excited friend",
    },
    "rewrite": {
        6: """
        ^translate ^traslate ^translat ^rewrite ^revise ^rephrase ^paraphrase ^reword ^proofread ^simplify ^reformat
        ^refactor ^restate ^ubersetze ^ubersetz ^uebersetze ^korrigiere ^vereinfache ^traduis ^traduisez ^corrige
        ^corrigez ^reformule ^reformulez ^reecris ^traduce ^traduzca ^reescribe ^reformula ^mejora ^traduza ^traduz
        ^corrija ^reescreva ^simplifique ^ameliore ^corrigir grammar grammer how_do|would|to|can_you|i|one_say
        way_to_say|put|phrase how_would_*_say proper_english wie_heisst_*_auf""",
        5: """
        translate translation rephrase rewrite reword proofread paraphrase proof_read rephrased ^polish spelling
        plain_english wrong_with_given falsch
        turn|turned|make|put|transform|change_given_into|more|less|sound|shorter|simpler|a|longer|better|warmer|nicer
        make|sound|sounds_*_more|less|shorter|longer|simpler|clearer|formal|polite|professional|friendlier|better|nicer
        same_text|message|sentence|thing wordy punctuation passive_voice
        ^german|french|spanish|italian|english_please|version
        formal|polite|professional|shorter|simpler|better|nicer_version correct_english
        to|into_past|present|future_tense in_einfacher|leichter_sprache einfache|leichte_sprache""",
        4: """
        ^fix ^correct ^convert ^shorten ^transform ^edit ^improve ^change ^expand ^port ^capitalize ^punctuate
        ^refine ^replace ^remove ^reduce ^format ^clean ^debug ^adapt ^switch ^swap ^tidy ^add ^insert ^check_my
        ^merge ^undo say|put|write_given_in|into past|present_tense polish commas jargon wording politely
        au_passe|futur ^mets|mettez_given auf|ins_deutsch|englisch|englische en_anglais|francais al|en_ingles
        para_o_ingles to_bullet_points ^less ^more elaborate|expand_on_given
        ^to_python|java|javascript|german|french|spanish|english|italian ^in_german|french|spanish lowercase
        uppercase caps ^make_it|them""",
        3: """
        third|first_person active|passive_voice simple|simpler|easier|simplest_words|terms|language ^turn ^put
        ^make_given into_a|an_email|letter|paragraph|tweet|sentence
        into|to_english|german|french|spanish|italian|portuguese|japanese|chinese|javascript|python|markdown
        sound|sounds more_formal|polite|professional|friendly|concise|casual|natural as_a|an_formal|tweet|haiku|poem
        ^in_*_speak the_tone ^for_kids|children|beginners|dummies it_for_kids|children|beginners""",
        2: """
        tone better simpler politer nicer clearer correct improve given_but|as given_as warmer happier passive
        as|to|into_bullet_points one|a_tweet""",
        1: "in_english|german|french|spanish|italian|portuguese|japanese|chinese",
    },
    "summarization": {
        7: """
        summarize summarise summarizing sumarize summerize summary summaries tldr tl_dr synopsis recap gist takeaway
        takeaways zusammenfassen zusammenfassung kurzfassung zusammen ^resume ^resumez ^resumir resumen resumo
        resuma nutshell key|main|essential|important_points|takeaways|ideas|message|messages sum_up sum_given_up
        sum_it_up boil_*_down main_idea un_resume en_resume cliff|cliffs_notes whats_given_about point_of_given
        most_important_things|points|parts|facts core_message important_bits|stuff|things worum_geht eli5 brief_me
        condensa condensez one_liner oneliner in_short what_is_given_about resume_en""",
        5: """
        condense short|shorter|brief|quick_version|overview what_given_is_about too_long much_shorter essence
        main_point highlights abstract_of make|write_an|a_abstract bottom_line short_and as_short|briefly_as
        key_facts have_time_to_read main|key_content bref break|breaks_given_down long_story_short""",
        4: """
        ^shorten in|to_#|one|a_sentence|sentences|line|lines|paragraph|bullets|points #_bullet_points
        one_sentence|line|paragraph in_a_few|couple_sentences|words|lines in_einem|zwei|drei|#_satz|satzen digest
        single_sentence|line|paragraph what_happened_in_given what_do_they_want what|whats_given_say|saying|says
        en_une|#_phrase|phrases en_una|dos|#_frase|frases|lineas briefly headline_for_given in|to_#_words facts_only""",
        2: "bullet_points plot in_a_nutshell",
    },
    "classification": {
        8: "^identify|name|guess_the_language|tone|genre|emotion|mood|sentiment",
        6: """
        ^classify ^classfy ^categorize ^categorise ^klassifiziere ^kategorisiere ^clasifica ^classifique ^classe
        sentiment spam toxic sarcasm sarcastic clickbait offensive hate_speech parts|part_of_speech mean_the_same
        same_meaning
        which|what_category|label|class|genre|topic|emotion|intent|sentiment|type|kind|department|group|mood|tense|tone
        what|which_language|programming_*_given|written|code fact_or_opinion scale_of|from rate_*_#|scale odd_one
        level|topic|genre|tone|mood|language|sentiment|priority_of_given which_of_these|those which_of_given_are
        welche_sprache|kategorie|stimmung which_team|folder|bucket ^rank_*_from rank_given violate violates
        mark|label|tag|flag_each|every about_the_same count_as ton_de""",
        4: """
        ^label ^rate ^grade ^score ^tag ^assign ^sort ^bewerte ^ordne ^evalua ^avalie ^group ^flag scale category
        categories genre positive negative neutral positiv negativ positif negatif positivo positiva negativo
        yes_or_no oui_ou_non ja_oder_nein si_o_no how_likely|positive|negative|formal|angry|urgent|toxic|polite
        out_of_# contradict contradicts entail follows_from belongs|belong_to fall_into|under|in what_language|tone
        ^say|answer|output|respond|reply|return_*_or handelt_es_sich grammatically grammatical for_each_*_say
        more_likely right|correct_label written_by given_*_allowed would_you_call does_*_support""",
        3: """
        ^decide ^determine ^detect ^judge ^predict ^assess ^check_if|whether ^tell_me_if|whether whether or_not
        or_formal real|fake_or_fake|real or_informal intent urgent emotion mood thema|stimmung
        ^identify_the|which|whether_language|tone if|whether_given_is ^say_if|whether identify_whether fact opinion
        is_given_a|an|about or_verb|noun|adjective priority yes_no human_or acceptable complaint""",
        2: "which_of or_opinion type likely label",
        1: "topic",
    },
    "other": {
        6: """
        ^sudo ^ls ^cd ^pip ^npm ^apt ^rm ^mkdir ^curl select_*_from ^look_up ^set_a|an|the|my|volume
        set_*_alarm|timer do|try_*_again ^go_on|back_. ^remind_me_to|at|in|about|tomorrow ^switch_on|off
        ^turn_on|off|up|down|the ^schalte ^mach_das|die|den ^spiel ^wake_me ^try_again my_account volume_up|down
        next|previous_page|track|song same_as_before as_above given_attached ^see_attached hello_world lorem
        ^git_status|push|pull|commit|clone|checkout|add|init|log|diff ^chmod ^grep""",
        5: """
        ^pause ^skip ^mute ^cancel ^navigate ^show_me_my ^take_a_screenshot|photo|picture ^add_*_to_my ^delete
        ^text_mum|mom|dad|my|him|her""",
        4: """
        ^continue|again|ok|okay|yes|no|next|test|more|yep|nope|sure|weiter|ja|nein|oui|non|stop|k_.
        ^yes|no_the|not|to ^and_now_the_same the_same_for|but|again ^test_test ^more_please ^again_please
        the|other|this|that_one_. ^play ^open ^call ^order ^book_a|me|us|the|my ^send ^search ^google ^stop ^start
        ^schedule ^buy ^download ^print ^pay""",
    },
    "closed_qa": {
        6: "answer|answers_*_question|questions choose|select|pick_the_correct|right|best according_to",
        5: "true_or_false fill_in_the_blank|blanks|gap|gaps blank",
        4: """
        which|what_of_given read_*_answer using|use_*_facts|information|given anhand based_only|on laut_given
        beantworte|beantworten dapres selon reponds segun responde responda nach_dem_text correct_answer|option
        multiple_choice look_at_given read_given""",
        3: """
        based|basing_*_on_given the_author|narrator|speaker|moral laut from_given given_say|says|mention|state
        tell_me_which""",
        2: "does|did_given in_given context facts question does|is|can_*_allow|allowed",
    },
    "extraction": {
        6: """
        ^extract extract extracts extracted ^extrahiere ^extrais ^extraire ^extrae ^extraia ^parse keyword keywords
        entities pull|pick|copy|get_*_out pull_*_from action_items columns fields
        ^find|list|identify|get_all|every|each
        ^names|dates|emails|addresses|numbers|urls|quotes|terms|people|cities|words|verbs_*_in|from|used_given|here""",
        5: """
        mentioned named listed appear appears occur ^pull ^copy nenne_alle|alle_im write_down ^busca ^encuentra
        ^saca ^repere ^releve ^trouve ^encontre ^recupera ^highlight ^underline give|show|list_me|us_only|just|all
        ^return|find|get|list|identify_the|all|any out_of_given given_described who_what_where zip|postal_codes
        erwahnt note_down kommen_*_vor ^liste_alle fill_*_in ^note_every|all|each hol|hole_mir|alle as_json
        json_with in|from_given_mentioned|named mentioned|named|listed|described|used_in_given
        copy|pick|find|quote_given_that|which|with which_sentence|sentences noms_propres used|named_here scan_*_for
        just|only_the_names|dates|numbers|ingredients|emails|key schreib_alle alle_*_heraus|raus""",
        4: """
        ^find ^finde ^get ^identify ^return ^grab ^collect ^spot ^locate ^list_all|every|the json characters
        which|what_cities|names|people|companies|ingredients|countries|dates|items|skills|products|places|persons
        contain in_a_table details_in from_. list_of_the|all|every""",
        3: """
        all|every|any|which_names|dates|places|people|numbers|emails|addresses|urls|links|cities|countries|companies|ingredients
        any_email|phone names_of ^list which|what_*_mentioned|named|listed ^any parties from_given
        ^which|what|who_personen what|which_email|phone|telephone|url|number|address|date""",
        2: """
        only_. names dates numbers addresses ingredients people companies places locations verbs nouns adjectives
        adverb phone ids skills personen quotes number date amount prices price hashtags emails urls""",
    },
}

# Words that are in so many prompts that it does not pay to look up a phrase by them.
_EVERYWHERE: Final = ("given", "what", "which", "write", "the")


class Cue(NamedTuple):
    parts: tuple[str, ...]  # " like this ", to be found one after the other; none: the word it is filed under is enough
    category: str
    weight: int

    def speaks_in(self, ask: str) -> bool:
        """`ask`: " . words . with points around the sentences . "."""
        at = 0
        for part in self.parts:
            at = ask.find(part, at)
            if at < 0:
                return False
            at += len(part) - 1
        return True

    @property
    def opening(self) -> str:
        """What a sentence begins with to be one that this cue speaks in; empty when it may be anywhere."""
        return self.parts[0].removeprefix(" .") if len(self.parts) == 1 and self.parts[0].startswith(" . ") else ""


def _rarity(word: str) -> int:
    return 0 if word in _EVERYWHERE else len(word)


def _cues() -> Iterator[tuple[str, Cue]]:
    for category, by_weight in CUES.items():
        for weight, patterns in by_weight.items():
            for pattern in patterns.split():
                anchor = ". " if pattern[0] == "^" else ""
                for words in product(*(choice.split("|") for choice in pattern.removeprefix("^").split("_"))):
                    parts = tuple(f" {part.strip()} " for part in (anchor + " ".join(words)).split("*"))
                    alone = not anchor and len(words) == 1
                    yield max(words, key=_rarity), Cue(() if alone else parts, category, weight)


def _filed(cues: Iterator[tuple[str, Cue]]) -> dict[str, list[Cue]]:
    filed: dict[str, list[Cue]] = {}
    for word, cue in cues:
        filed.setdefault(word, []).append(cue)
    return filed


def openings(min_weight: int, *, without: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """How sentences that ask begin, such as " give me some ", by the first word."""
    found: dict[str, tuple[str, ...]] = {}
    for cue in (cue for cues in BY_WORD.values() for cue in cues):
        if cue.opening and cue.weight >= min_weight and cue.category not in without:
            first = cue.opening.split()[0]
            found[first] = (*found.get(first, ()), cue.opening)
    return found


# Each under its longest word, which is likely to be its rarest: only prompts with that word try it.
BY_WORD: Final[Mapping[str, Sequence[Cue]]] = _filed(_cues())
